/* channel_norm.h without running values, residual and relu. */
#include "kernels/norm/group_norm.h"

#include "kernels/norm/channel_norm.h"
#include "runtime/base/check.h"

size_t hn_group_norm_fwd_cuda_scratch(const hn_group_norm_args *a)
{
    const hn_channel_norm c = hn_channel_norm_of_group(a);
    return hn_channel_norm_cuda_scratch(&c);
}

hn_status hn_group_norm_fwd_cuda(const hn_group_norm_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_group_norm_check(a));
    const hn_channel_norm c = hn_channel_norm_of_group(a);
    HN_TRY(hn_check_pointer("group_norm", "scratch", scratch));
    return hn_channel_norm_cuda(&c, scratch, stream);
}

size_t hn_group_norm_bwd_cuda_scratch(const hn_group_norm_bwd_args *a)
{
    const hn_channel_norm_bwd c = hn_channel_norm_bwd_of_group(a);
    return hn_channel_norm_bwd_cuda_scratch(&c);
}

hn_status hn_group_norm_bwd_cuda(const hn_group_norm_bwd_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_group_norm_bwd_check(a));
    const hn_channel_norm_bwd c = hn_channel_norm_bwd_of_group(a);
    if (hn_channel_norm_has_sums(&c))
        HN_TRY(hn_check_pointer("group_norm_bwd", "scratch", scratch));
    return hn_channel_norm_bwd_cuda(&c, scratch, stream);
}
