/* channel_norm.h with all rows as one image and a group a column. */
#include "kernels/norm/batch_norm.h"

#include "kernels/norm/channel_norm.h"
#include "runtime/base/check.h"

size_t hn_batch_norm_fwd_cuda_scratch(const hn_batch_norm_args *a)
{
    const hn_channel_norm c = hn_channel_norm_of_batch(a);
    return hn_channel_norm_cuda_scratch(&c);
}

hn_status hn_batch_norm_fwd_cuda(const hn_batch_norm_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_batch_norm_check(a));
    const hn_channel_norm c = hn_channel_norm_of_batch(a);
    if (!a->frozen) HN_TRY(hn_check_pointer("batch_norm", "scratch", scratch));
    return hn_channel_norm_cuda(&c, scratch, stream);
}

size_t hn_batch_norm_bwd_cuda_scratch(const hn_batch_norm_bwd_args *a)
{
    const hn_channel_norm_bwd c = hn_channel_norm_bwd_of_batch(a);
    return hn_channel_norm_bwd_cuda_scratch(&c);
}

hn_status hn_batch_norm_bwd_cuda(const hn_batch_norm_bwd_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_batch_norm_bwd_check(a));
    const hn_channel_norm_bwd c = hn_channel_norm_bwd_of_batch(a);
    if (hn_channel_norm_has_sums(&c))
        HN_TRY(hn_check_pointer("batch_norm_bwd", "scratch", scratch));
    return hn_channel_norm_bwd_cuda(&c, scratch, stream);
}
