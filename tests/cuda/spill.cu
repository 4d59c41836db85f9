/* Needs more registers than a full block may have: the build flags must refuse it. */
extern "C" __global__ void __launch_bounds__(1024, 2) spill(float *p, int n)
{
    float a[64];
#pragma unroll
    for (int i = 0; i < 64; i++) a[i] = p[i * 1024 + threadIdx.x];
    for (int k = 0; k < n; k++)
#pragma unroll
        for (int i = 0; i < 64; i++) a[i] = a[i] * a[(i + 7) % 64] + a[(i * 13 + 5) % 64];
#pragma unroll
    for (int i = 0; i < 64; i++) p[i * 1024 + threadIdx.x] = a[i];
}
