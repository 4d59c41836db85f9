#include "runtime/train/lora_hook.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"

static hn_status choose(const void *context, const char *module, int64_t in, int64_t out,
                        hn_lowrank *choice)
{
    const hn_peft_config *c = context;
    bool matches = false;
    double scale = 0;
    HN_TRY(hn_peft_matches(c, module, &matches));
    if (!matches || hn_peft_saves(c, module)) return HN_OK; /* as PEFT: what is saved has no pair */
    HN_TRY(hn_peft_rank(c, module, &choice->rank, &scale));
    if (choice->rank > in && choice->rank > out)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: rank %" PRId64 " is above both widths, %" PRId64 " and %" PRId64,
                       module, choice->rank, in, out);
    choice->scale = (float)scale;
    choice->dropout = (float)c->dropout;
    choice->magnitude = c->dora;
    return HN_OK;
}

static hn_adapt_kind train_saved(const void *context, const char *name)
{
    const char *dot = strrchr(name, '.');
    char module[256];
    if (dot == NULL || (size_t)(dot - name) >= sizeof module) return HN_ADAPT_FROZEN;
    snprintf(module, sizeof module, "%.*s", (int)(dot - name), name);
    return hn_peft_saves(context, module) ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
}

hn_adapt hn_lora_hook(const hn_peft_config *c)
{
    return (hn_adapt){.parameter = train_saved, .linear = choose, .context = c};
}

/* ---- which layers ---- */

hn_status hn_lora_check_layers(const hn_params *p, const hn_peft_config *c)
{
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        bool matches = false;
        HN_TRY(hn_peft_matches(c, l->module, &matches));
        if (!matches) continue;
        if (c->dora && l->kh > 0)
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "--dora: %s is a convolution; name linear layers with --targets, or "
                           "leave it out with --exclude",
                           l->module);
        if (l->groups > 1)
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "--targets: %s is a convolution in %" PRId64
                           " groups, whose update PEFT "
                           "forms otherwise; leave it out with --exclude",
                           l->module, l->groups);
    }
    return HN_OK;
}

static bool ends_with(const char *path, const char *end)
{
    const size_t n = strlen(path), k = strlen(end);
    return n >= k && strcmp(path + n - k, end) == 0 && (n == k || path[n - k - 1] == '.');
}

/* Whether a module gets a pair by default. */
static bool is_adapted(const hn_model *m, const hn_params *p, const char *module)
{
    char name[HN_MODEL_HEAD];
    const char *head = hn_model_head(m, name, sizeof name);
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        const bool first = i == 0 && m->kind == HN_MODEL_CLASSIFIER;
        if (strcmp(l->module, module) != 0) continue;
        return !first && l->groups <= 1 && (head == NULL || strcmp(l->weight->name, head) != 0);
    }
    return false;
}

/* Whether something else ends so: a module that is not adapted, or what holds modules. The paths
 * are those of the parameters' names, cut at every dot. */
static bool is_others(const hn_model *m, const hn_params *p, const char *end)
{
    char path[512];
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        snprintf(path, sizeof path, "%s", hn_params_at(p, i)->name);
        for (char *dot; (dot = strrchr(path, '.')) != NULL;) {
            *dot = '\0';
            if (ends_with(path, end) && !is_adapted(m, p, path)) return true;
        }
    }
    return false;
}

/* The shortest end of its name that nothing else has; nothing where the list covers it already. */
static hn_status add_end(const hn_model *m, const hn_params *p, const char *module, hn_names *out)
{
    const char *end = module + strlen(module);
    for (int64_t i = 0; i < out->n; i++)
        if (ends_with(module, out->items[i])) return HN_OK;
    do {
        for (end--; end > module && end[-1] != '.'; end--) {
        }
    } while (end > module && is_others(m, p, end));
    return hn_names_add(out, end);
}

hn_status hn_lora_every_layer(const hn_model *m, hn_names *out)
{
    hn_params *p = NULL;
    HN_TRY(hn_params_new(NULL, &p));
    hn_status st = hn_model_declare(m, p);
    for (int64_t i = 0; st == HN_OK && i < hn_params_linears(p); i++) {
        const char *module = hn_params_linear_at(p, i)->module;
        if (is_adapted(m, p, module)) st = add_end(m, p, module, out);
    }
    hn_params_free(p);
    return st;
}

/* The last parts of the modules' names, each once: "q_proj, k_proj". */
static void list_ends(const hn_params *p, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (int64_t i = 0; i < hn_params_linears(p) && at < size; i++) {
        const char *module = hn_params_linear_at(p, i)->module, *dot = strrchr(module, '.');
        const char *end = dot ? dot + 1 : module;
        if (strstr(text, end) == NULL)
            at += (size_t)snprintf(text + at, size - at, "%s%s", at ? ", " : "", end);
    }
}

hn_status hn_lora_check_names(const hn_params *p, const hn_names *names, const char *option)
{
    for (int64_t i = 0; i < names->n; i++) {
        const hn_peft_config one = {.targets.list = {.items = &names->items[i], .n = 1}};
        bool found = false;
        for (int64_t k = 0; !found && k < hn_params_linears(p); k++)
            HN_TRY(hn_peft_matches(&one, hn_params_linear_at(p, k)->module, &found));
        if (found) continue;
        char ends[256];
        list_ends(p, ends, sizeof ends);
        return HN_FAIL(HN_ERR_ARG, "%s: no linear layer's name ends with '%.80s'; there are %s",
                       option, names->items[i], ends);
    }
    return HN_OK;
}

hn_status hn_lora_save_head(const hn_model *m, const char *option, hn_peft_config *c)
{
    const char *head = hn_vision_head(&m->vision);
    bool matches;
    if (hn_peft_saves(c, head)) return HN_OK;
    HN_TRY(hn_peft_matches(c, head, &matches));
    if (matches)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: the head, %s, is trained whole, and cannot be among them, too", option,
                       head);
    return hn_names_add(&c->saved, head);
}

/* ---- values ---- */

static hn_status set_pair(const hn_linear_layer *l, const hn_peft_adapter *a, const char *where)
{
    const hn_peft_module *m = hn_peft_find(a, l->module);
    if (m == NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: no tensors for the module %s", where, l->module);
    if (m->r != l->lowrank.rank || m->in != l->in || m->out != l->out || m->kh != l->kh ||
        m->kw != l->kw)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %s has rank %" PRId64 ", in %" PRId64 ", out %" PRId64
                       ", kernel %" PRId64 " x %" PRId64 "; the model wants %" PRId64 ", %" PRId64
                       ", %" PRId64 ", %" PRId64 " x %" PRId64,
                       where, l->module, m->r, m->in, m->out, m->kh, m->kw, l->lowrank.rank, l->in,
                       l->out, l->kh, l->kw);
    if ((m->m != NULL) != (l->m != NULL))
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s has %s magnitudes; the model wants %s", where,
                       l->module, m->m ? "DoRA's" : "no", l->m ? "them" : "none");
    HN_TRY(hn_param_set(l->a, m->a));
    HN_TRY(hn_param_set(l->b, m->b));
    return l->m ? hn_param_set(l->m, m->m) : HN_OK;
}

/* Both ways: what is saved belongs to the model, what the model trains whole is saved. */
static hn_status set_saved(const hn_params *p, const hn_peft_adapter *a, const char *where)
{
    int64_t n = 0;
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const hn_peft_tensor *t = hn_peft_saved(a, q->name);
        if (t == NULL && (q->adapter || train_saved(&a->config, q->name) == HN_ADAPT_FROZEN))
            continue;
        if (t == NULL) return HN_FAIL(HN_ERR_FORMAT, "%s: no tensor %s", where, q->name);
        bool same = t->ndim == q->file_ndim;
        for (int k = 0; same && k < t->ndim; k++) same = t->dim[k] == q->file_dim[k];
        if (!same)
            return HN_FAIL(HN_ERR_SHAPE, "%s: tensor %s has another shape than the model's", where,
                           q->name);
        HN_TRY(hn_param_set(q, t->value));
        n++;
    }
    return n == a->n_saved ? HN_OK
                           : HN_FAIL(HN_ERR_FORMAT,
                                     "%s: the model has %" PRId64 " of the %" PRId64
                                     " tensors that are saved whole",
                                     where, n, a->n_saved);
}

hn_status hn_lora_set(const hn_params *p, const hn_peft_adapter *a, const char *where)
{
    int64_t n = 0;
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        if (l->a == NULL) continue;
        HN_TRY(set_pair(l, a, where));
        n++;
    }
    for (int64_t i = 0; n != a->n && i < a->n; i++) {
        bool known = false;
        for (int64_t k = 0; !known && k < hn_params_linears(p); k++)
            known = strcmp(hn_params_linear_at(p, k)->module, a->modules[i].module) == 0;
        if (!known)
            return HN_FAIL(HN_ERR_FORMAT, "%s: the model has no linear layer %s", where,
                           a->modules[i].module);
    }
    return set_saved(p, a, where);
}

void hn_lora_release(hn_peft_adapter *a)
{
    for (int64_t i = 0; i < a->n; i++) {
        hn_free(a->modules[i].module);
        hn_free(a->modules[i].a);
        hn_free(a->modules[i].b);
        hn_free(a->modules[i].m);
    }
    for (int64_t i = 0; i < a->n_saved; i++) {
        hn_free(a->saved[i].name);
        hn_free(a->saved[i].value);
    }
    hn_free(a->modules);
    hn_free(a->saved);
    *a = (hn_peft_adapter){0};
}

static int by_path(const void *x, const void *y)
{
    return strcmp(((const hn_peft_module *)x)->module, ((const hn_peft_module *)y)->module);
}

/* m owns what is allocated even after an error. */
static hn_status get_pair(const hn_linear_layer *l, const hn_peft_config *c, hn_peft_module *m)
{
    *m = (hn_peft_module){.in = l->in, .out = l->out, .kh = l->kh, .kw = l->kw};
    HN_TRY(hn_peft_rank(c, l->module, &m->r, &m->scale));
    m->module = hn_strdup(l->module);
    m->a = hn_malloc((size_t)(m->r * m->in) * sizeof(float));
    m->b = hn_malloc((size_t)(m->out * m->r) * sizeof(float));
    m->m = l->m ? hn_malloc((size_t)m->out * sizeof(float)) : NULL;
    if (m->module == NULL || m->a == NULL || m->b == NULL || (l->m != NULL && m->m == NULL))
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the adapter of %s", l->module);
    HN_TRY(hn_param_get(l->a, m->a));
    HN_TRY(hn_param_get(l->b, m->b));
    return l->m ? hn_param_get(l->m, m->m) : HN_OK;
}

static hn_status get_saved(const hn_param *q, hn_peft_tensor *t)
{
    *t = (hn_peft_tensor){.name = hn_strdup(q->name), .ndim = q->file_ndim};
    for (int i = 0; i < t->ndim; i++) t->dim[i] = q->file_dim[i];
    t->value = hn_malloc((size_t)hn_param_values(q) * sizeof(float));
    if (t->name == NULL || t->value == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", q->name);
    return hn_param_get(q, t->value);
}

hn_status hn_lora_get(const hn_params *p, const hn_peft_config *c, hn_peft_adapter *out)
{
    hn_peft_adapter a = {.config = *c};
    hn_status st = HN_OK;
    a.modules = hn_calloc((size_t)hn_params_linears(p), sizeof *a.modules);
    a.saved = hn_calloc((size_t)hn_params_count(p), sizeof *a.saved);
    if (a.modules == NULL || a.saved == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for an adapter's table");
    for (int64_t i = 0; st == HN_OK && i < hn_params_linears(p); i++)
        if (hn_params_linear_at(p, i)->a != NULL)
            st = get_pair(hn_params_linear_at(p, i), c, &a.modules[a.n++]);
    for (int64_t i = 0; st == HN_OK && i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (q->trained && !q->adapter) st = get_saved(q, &a.saved[a.n_saved++]);
    }
    if (st != HN_OK) {
        hn_lora_release(&a);
        return st;
    }
    qsort(a.modules, (size_t)a.n, sizeof *a.modules, by_path);
    *out = a;
    return HN_OK;
}
