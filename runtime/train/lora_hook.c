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
    if (!matches) return HN_OK;
    HN_TRY(hn_peft_rank(c, module, &choice->rank, &scale));
    if (choice->rank > in && choice->rank > out)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: rank %" PRId64 " is above both widths, %" PRId64 " and %" PRId64,
                       module, choice->rank, in, out);
    choice->scale = (float)scale;
    choice->dropout = (float)c->dropout;
    return HN_OK;
}

hn_adapt hn_lora_hook(const hn_peft_config *c)
{
    return (hn_adapt){.linear = choose, .context = c};
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

hn_status hn_lora_set(const hn_params *p, const hn_peft_adapter *a, const char *where)
{
    int64_t n = 0;
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        if (l->a == NULL) continue;
        const hn_peft_module *m = hn_peft_find(a, l->module);
        if (m == NULL)
            return HN_FAIL(HN_ERR_FORMAT, "%s: no tensors for the module %s", where, l->module);
        if (m->r != l->lowrank.rank || m->in != l->in || m->out != l->out)
            return HN_FAIL(HN_ERR_SHAPE,
                           "%s: %s has rank %" PRId64 ", in %" PRId64 ", out %" PRId64
                           "; the model wants %" PRId64 ", %" PRId64 ", %" PRId64,
                           where, l->module, m->r, m->in, m->out, l->lowrank.rank, l->in, l->out);
        HN_TRY(hn_param_set(l->a, m->a));
        HN_TRY(hn_param_set(l->b, m->b));
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
    return HN_OK;
}

void hn_lora_release(hn_peft_adapter *a)
{
    for (int64_t i = 0; i < a->n; i++) {
        hn_free(a->modules[i].module);
        hn_free(a->modules[i].a);
        hn_free(a->modules[i].b);
    }
    hn_free(a->modules);
    *a = (hn_peft_adapter){0};
}

static int by_path(const void *x, const void *y)
{
    return strcmp(((const hn_peft_module *)x)->module, ((const hn_peft_module *)y)->module);
}

hn_status hn_lora_get(const hn_params *p, const hn_peft_config *c, hn_peft_adapter *out)
{
    hn_peft_adapter a = {.config = *c};
    a.modules = hn_calloc((size_t)hn_params_linears(p), sizeof *a.modules);
    if (a.modules == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for an adapter's table");
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        if (l->a == NULL) continue;
        hn_peft_module *m = &a.modules[a.n++];
        *m = (hn_peft_module){
            .r = l->lowrank.rank, .in = l->in, .out = l->out, .scale = (double)l->lowrank.scale};
        HN_TRY(hn_peft_rank(c, l->module, &m->r, &m->scale));
        m->module = hn_strdup(l->module);
        m->a = hn_malloc((size_t)(m->r * m->in) * sizeof(float));
        m->b = hn_malloc((size_t)(m->out * m->r) * sizeof(float));
        hn_status st = HN_OK;
        if (m->module == NULL || m->a == NULL || m->b == NULL)
            st = HN_FAIL(HN_ERR_MEMORY, "no memory for the adapter of %s", l->module);
        if (st == HN_OK) st = hn_param_get(l->a, m->a);
        if (st == HN_OK) st = hn_param_get(l->b, m->b);
        if (st != HN_OK) {
            hn_lora_release(&a);
            return st;
        }
    }
    qsort(a.modules, (size_t)a.n, sizeof *a.modules, by_path);
    *out = a;
    return HN_OK;
}
