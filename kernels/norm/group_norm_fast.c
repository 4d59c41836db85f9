/* channel_norm.h without running values, residual and relu. */
#include "kernels/norm/group_norm.h"

#include "kernels/norm/channel_norm.h"
#include "runtime/base/check.h"

size_t hn_group_norm_fwd_fast_scratch(const hn_group_norm_args *a)
{
    const hn_channel_norm c = hn_channel_norm_of_group(a);
    return hn_channel_norm_fast_scratch(&c);
}

hn_status hn_group_norm_fwd_fast(const hn_group_norm_args *a, void *scratch)
{
    HN_TRY(hn_group_norm_check(a));
    const hn_channel_norm c = hn_channel_norm_of_group(a);
    HN_TRY(hn_check_pointer("group_norm", "scratch", scratch));
    hn_channel_norm_fast(&c, scratch);
    return HN_OK;
}

size_t hn_group_norm_bwd_fast_scratch(const hn_group_norm_bwd_args *a)
{
    const hn_channel_norm_bwd c = hn_channel_norm_bwd_of_group(a);
    return hn_channel_norm_bwd_fast_scratch(&c);
}

hn_status hn_group_norm_bwd_fast(const hn_group_norm_bwd_args *a, void *scratch)
{
    HN_TRY(hn_group_norm_bwd_check(a));
    const hn_channel_norm_bwd c = hn_channel_norm_bwd_of_group(a);
    if (hn_channel_norm_has_sums(&c))
        HN_TRY(hn_check_pointer("group_norm_bwd", "scratch", scratch));
    hn_channel_norm_bwd_fast(&c, scratch);
    return HN_OK;
}
