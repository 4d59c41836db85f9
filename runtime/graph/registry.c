#include <assert.h>

#include "runtime/graph/op.h"

#define HN_OP(id, def) extern const hn_op_def hn_op_##def;
#include "runtime/graph/ops.def"
#undef HN_OP

static const hn_op_def *const table[HN_OP_COUNT] = {
#define HN_OP(id, def) [HN_OP_##id] = &hn_op_##def,
#include "runtime/graph/ops.def"
#undef HN_OP
};

const hn_op_def *hn_op(hn_op_id id)
{
    assert((unsigned)id < HN_OP_COUNT);
    return table[id];
}
