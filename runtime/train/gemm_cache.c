#define _POSIX_C_SOURCE 200809L
#include "runtime/train/gemm_cache.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/base/save.h"

static const char WHAT[] = "hone gemm plans";
enum { FORMAT_VERSION = 1 };

/* ---- names ---- */

/* Where caches lie; *out NULL when the environment names no home. */
static hn_status cache_folder(char **out)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    *out = NULL;
    if (xdg != NULL && xdg[0] == '/')
        *out = hn_asprintf("%s/hone", xdg);
    else if (home != NULL && home[0] == '/')
        *out = hn_asprintf("%s/.cache/hone", home);
    else
        return HN_OK;
    return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the path of the cache");
}

hn_status hn_gemm_cache_path(const char *option, const char *gpu, int64_t library, char **out)
{
    char *folder;
    *out = NULL;
    if (strcmp(option, "off") == 0) return HN_OK;
    if (strcmp(option, "auto") != 0) {
        *out = hn_strdup(option);
        return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", option);
    }
    HN_TRY(cache_folder(&folder));
    if (folder == NULL) return HN_OK;
    *out = hn_asprintf("%s/gemm-%s-%" PRId64 ".json", folder, gpu, library);
    if (*out == NULL) {
        hn_free(folder);
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the path of the cache");
    }
    for (char *c = *out + strlen(folder) + 1; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '.') *c = '-';
    hn_free(folder);
    return HN_OK;
}

/* ---- reading ---- */

static hn_status read_file(const json_t *o, const char *path, const char *gpu, int64_t library,
                           json_t **plans, char **whose)
{
    const char *what = "", *its_gpu = NULL;
    int64_t version = 0, its_library = 0;
    if (!json_is_object(o)) return HN_FAIL(HN_ERR_FORMAT, "%s: not a JSON object", path);
    HN_TRY(hn_json_get_text(o, "what", path, true, &what));
    if (strcmp(what, WHAT) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: 'what' is '%s', not '%s'", path, what, WHAT);
    HN_TRY(hn_json_get_i64(o, "version", path, 1, INT64_MAX, true, &version));
    if (version > FORMAT_VERSION)
        return HN_FAIL(HN_ERR_FORMAT, "%s: format version %" PRId64 ", this program reads %d", path,
                       version, FORMAT_VERSION);
    HN_TRY(hn_json_get_text(o, "gpu", path, true, &its_gpu));
    HN_TRY(hn_json_get_i64(o, "library", path, 0, INT64_MAX, true, &its_library));
    json_t *list = json_object_get(o, "plans");
    if (!json_is_array(list)) return HN_FAIL(HN_ERR_FORMAT, "%s: 'plans' is not an array", path);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!json_is_object(json_object_get(json_array_get(list, i), "shape")))
            return HN_FAIL(HN_ERR_FORMAT, "%s: plan %zu has no shape", path, i);
    if (its_library == library && strcmp(its_gpu, gpu) == 0) {
        *plans = json_incref(list);
        return HN_OK;
    }
    *whose = hn_asprintf("cuBLASLt %" PRId64 " on %s", its_library, its_gpu);
    return *whose ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the name of a GPU");
}

hn_status hn_gemm_cache_load(const char *path, const char *gpu, int64_t library, json_t **plans,
                             char **whose)
{
    json_t *o;
    *plans = NULL;
    *whose = NULL;
    HN_TRY(hn_json_load(path, &o));
    const hn_status st = read_file(o, path, gpu, library, plans, whose);
    json_decref(o);
    return st;
}

/* ---- writing ---- */

static bool has_shape(const json_t *list, const json_t *shape)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_object_get(json_array_get(list, i), "shape"), shape)) return true;
    return false;
}

static int append_others(json_t *list, const json_t *older, const json_t *plans)
{
    int failed = 0;
    for (size_t i = 0; i < json_array_size(older) && !failed; i++) {
        json_t *plan = json_array_get(older, i);
        if (!has_shape(plans, json_object_get(plan, "shape")))
            failed |= json_array_append(list, plan);
    }
    return failed;
}

static hn_status make_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL || slash == path) return HN_OK;
    char *folder = hn_strndup(path, (size_t)(slash - path));
    if (folder == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the folder of %s", path);
    const hn_status st = hn_make_dirs(folder);
    hn_free(folder);
    return st;
}

hn_status hn_gemm_cache_save(const char *path, const char *gpu, int64_t library,
                             const json_t *older, const json_t *plans)
{
    json_t *list = json_copy((json_t *)(uintptr_t)plans), *o = NULL;
    hn_status st = HN_OK;
    if (list == NULL || append_others(list, older, plans) ||
        (o = json_pack("{s:s, s:i, s:s, s:I, s:O}", "what", WHAT, "version", FORMAT_VERSION, "gpu",
                       gpu, "library", (json_int_t)library, "plans", list)) == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the list of gemm plans");
    if (st == HN_OK) st = make_folder_of(path);
    if (st == HN_OK) st = hn_json_save(path, o, false);
    json_decref(list);
    json_decref(o);
    return st;
}
