/* hone-full: every weight is trained; from a model, or from a config.json and a seed. */
#include "runtime/train/cli.h"
#include "runtime/train/run_options.h"

typedef struct {
    hn_run_config run;
} full_config;

/* clang-format off */
static const hn_option options[] = {
    {"lr", HN_OPT(full_config, run.lr), "5e-5", 0, 1e3, NULL, "peak learning rate"},
};
/* clang-format on */

int main(int argc, char **argv)
{
    const hn_method method = {
        .name = "full",
        .program = "hone-full",
        .summary = "fine-tune or pretrain every weight of a decoder or an image classifier",
        .options = options,
        .n_options = sizeof options / sizeof *options,
        .config_size = sizeof(full_config)};
    return hn_trainer_main(&method, argc, argv);
}
