/* shira.h - sparse changes as folders of the PEFT library: its method SHiRA.
 *
 *   W'[row, col] = W[row, col] + weight      of linear layers; scale 1
 *
 * Folder     adapter_config.json with peft_type SHIRA, and adapter_model.safetensors with
 *            base_model.model.<module>.shira_weight [n], F32 or BF16, and .shira_indices I32
 *            [2, n]: all rows (outputs), then all columns (inputs).
 * Slots      PEFT makes n = r (in + out) slots a module, one r for all, and asks for n <= in out.
 *            Modules are therefore filled up with zeros at positions that are not in use, for the
 *            least r that holds the fullest one. What is read has no zeros any more.
 * Refused    on writing, by HN_ERR_UNSUPPORTED with the figures: padding that more than doubles the
 *            file, an r that one of the modules has no room for. On reading, by a line that names
 *            the key: modules_to_save, fan_in_fan_out (PEFT cannot load it for SHiRA), another
 *            mask_type than "random" (what it says does not matter once weights are saved, but
 *            nothing else is defined), keys that are not known and set; positions that are out
 *            of range or there twice.
 * Use        for each matrix: hn_shira_add(&a, module, out, in, br, bc, id, n, delta);
 *            a.config.targets names the modules; hn_shira_save(dir, &a, HN_F32); hn_shira_clear(&a)
 * Source     peft/tuners/shira of PEFT 0.21.2; Bhardwaj et al., NeurIPS 2024; conventions.md 6.5.
 */
#ifndef HN_SHIRA_H
#define HN_SHIRA_H
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/file/peft.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char *module; /* path without "base_model.model." */
    int64_t out, in, n;
    int64_t *at;  /* [n] row * in + column, ascending, each once */
    float *value; /* [n] */
} hn_shira_module;

/* Zero before the first use. Of config only base_model, revision, task_type and targets are
 * written, and r is what the file needs; read: those and r. */
typedef struct {
    hn_peft_config config;
    hn_shira_module *modules; /* as added; read: in byte order of the path */
    int64_t n, cap;
} hn_shira_adapter;

void hn_shira_clear(hn_shira_adapter *a); /* frees all, also config; leaves it zeroed */

/* One more module from n blocks of br x bc of a matrix [out, in]: ids ascending, delta [n, br bc].
 * Zeros are left out.
 * Errors  HN_ERR_ARG: a shape or an id that does not fit; HN_ERR_NUMERIC; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_shira_add(hn_shira_adapter *a, const char *module, int64_t out,
                                    int64_t in, int64_t br, int64_t bc, const int32_t *id,
                                    int64_t n, const float *delta);

/* r, the slots of all modules together and how many of them are in use. Errors: as writing */
HN_NODISCARD hn_status hn_shira_slots(const hn_shira_adapter *a, int64_t *r, int64_t *slots,
                                      int64_t *used);

/* Atomically, as hn_peft_save. dtype: HN_F32 or HN_BF16 */
HN_NODISCARD hn_status hn_shira_save(const char *dir, const hn_shira_adapter *a, hn_dtype dtype);

/* Reads a folder. in and out of a module are not in the file: module_shape gives them; false: the
 * model has no such module. Errors also HN_ERR_FORMAT, HN_ERR_SHAPE */
typedef bool hn_shira_shape(void *user, const char *module, int64_t *out, int64_t *in);
HN_NODISCARD hn_status hn_shira_load(const char *dir, hn_shira_shape *module_shape, void *user,
                                     hn_shira_adapter *out);

#ifdef __cplusplus
}
#endif
#endif
