/* kernel_test.h - what the tests of the CPU kernels share. */
#ifndef HN_KERNEL_TEST_H
#define HN_KERNEL_TEST_H
#include <omp.h>

#include <limits>

#include "hn_test.h"

/* The values of [rows, cols] with rows ld apart; the gaps between them must be NaN still. */
inline std::vector<float> values_of_rows(const std::vector<unsigned char> &bytes, hn_dtype t,
                                         int64_t rows, int64_t cols, int64_t ld)
{
    std::vector<float> v;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < ld; j++) {
            const float x = hn_get_f32(bytes.data(), t, i * ld + j);
            if (j < cols)
                v.push_back(x);
            else if (!std::isnan(x))
                ADD_FAILURE() << "wrote between rows " << i << " and " << i + 1;
        }
    return v;
}

/* f32 or bf16 [rows, cols] with gaps between the rows and guard bands round it. Fresh elements,
 * gaps and bands are NaN; values() checks that gaps and bands still are. */
class Matrix {
    hn_dtype t_;
    int64_t rows_, cols_, ld_;
    GuardedArray<unsigned char> bytes_;

  public:
    Matrix(hn_dtype t, int64_t rows, int64_t cols, int64_t gap = 3)
        : t_(t), rows_(rows), cols_(cols), ld_(cols + gap),
          bytes_((size_t)(rows * (cols + gap)) * hn_dtype_size(t))
    {
    }
    void *data() { return bytes_.data(); }
    float *f32() { return (float *)bytes_.data(); }
    int64_t ld() const { return ld_; }
    int64_t rows() const { return rows_; }
    int64_t cols() const { return cols_; }
    hn_dtype dtype() const { return t_; }
    void set(int64_t i, int64_t j, float v) { hn_set_f32(data(), t_, i * ld_ + j, v); }
    Matrix &assign(const std::vector<float> &v)
    {
        EXPECT_EQ((int64_t)v.size(), rows_ * cols_);
        for (int64_t i = 0; i < rows_; i++)
            for (int64_t j = 0; j < cols_; j++) set(i, j, v[(size_t)(i * cols_ + j)]);
        return *this;
    }
    Matrix &normal(unsigned seed, float mean = 0, float sd = 1)
    {
        return assign(normal_f32((size_t)(rows_ * cols_), seed, mean, sd));
    }
    std::vector<float> values() { return values_of_rows(bytes_.host(), t_, rows_, cols_, ld_); }
};

/* Scratch of exactly the promised size between guard bands; NULL when that is 0. */
class Scratch {
    const bool empty_;
    GuardedArray<unsigned char> bytes_;

  public:
    explicit Scratch(size_t n_bytes) : empty_(n_bytes == 0), bytes_(empty_ ? 1 : n_bytes) {}
    ~Scratch() { (void)bytes_.host(); }
    void *data() { return empty_ ? nullptr : bytes_.data(); }
};

/* fn() on n threads. */
template <class Fn>
void on_threads(int n, Fn fn)
{
    const int before = omp_get_max_threads();
    omp_set_num_threads(n);
    fn();
    omp_set_num_threads(before);
}

/* fp32 sums of a few thousand terms; bf16: some values round to the other neighbour. */
inline double tolerance(hn_dtype t) { return t == HN_F32 ? 3e-6 : 3e-3; }

/* The name of a test case: "r", 3, "_c", 9, HN_BF16 is r3_c9_bf16. */
inline void name_part(std::ostream &to, const char *v) { to << v; }
inline void name_part(std::ostream &to, int64_t v) { to << v; }
inline void name_part(std::ostream &to, int v) { to << v; }
inline void name_part(std::ostream &to, hn_dtype v) { to << '_' << hn_dtype_name(v); }
template <class... Parts>
std::string case_name(const Parts &...parts)
{
    std::ostringstream to;
    (name_part(to, parts), ...);
    return to.str();
}

#endif
