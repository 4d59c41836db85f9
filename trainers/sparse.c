/* hone-sparse: chosen blocks of the weights, chosen before and while training. */
#include "runtime/train/cli.h"
#include "runtime/train/sparse_method.h"

static const hn_option options[] = {HN_OPT_TITLE("Blocks"), HN_SPARSE_METHOD_ROWS};

int main(int argc, char **argv)
{
    const hn_method method = {
        .name = "sparse",
        .program = "hone-sparse",
        .summary = "fine-tune chosen blocks of the weights of a decoder or an image classifier",
        .options = options,
        .n_options = sizeof options / sizeof *options,
        .config_size = sizeof(hn_sparse_config),
        .adapter = true,
        .pack = true,
        .choose = hn_sparse_choose,
        .adapter_options = hn_sparse_adapter_options,
        .idle = hn_sparse_idle_option,
        .hooks = &hn_sparse_hooks};
    return hn_trainer_main(&method, argc, argv);
}
