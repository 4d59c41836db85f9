/* Data sets as they are named by a user: find, read, hold out, join. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/data/data_util.h"
#include "runtime/data/images_impl.h"

static const char *const training[] = {"train", "data_batch", "", NULL};
static const char *const held_out[] = {"val", "valid", "validation", "eval",
                                       "dev", "test",  "t10k",       NULL};

static bool exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

/* ---- one part of one data set ---- */

/* *out stays NULL when the folder has no such part. The set is not sealed. */
static hn_status read_part(const char *data, const char *const *words, const hn_image_options *o,
                           hn_image_set **out)
{
    hn_image_files f = {0};
    hn_image_set *s = NULL;
    hn_status st = HN_OK;
    HN_TRY(hn_image_files_find(data, o->kind, words, &f));
    if (f.files.n == 0) goto done;
    HN_TRY_GOTO(st, hn_images_new(f.files.n == 1 ? f.files.path[0] : data, &s), done);
    if (o->coarse && (f.kind == HN_IMAGES_IDX || f.kind == HN_IMAGES_FOLDER))
        st = HN_FAIL(HN_ERR_ARG, "%s: coarse labels are a thing of CIFAR-100", data);
    else if (f.kind == HN_IMAGES_IDX)
        st = hn_images_read_idx(&f, o, s);
    else if (f.kind == HN_IMAGES_FOLDER)
        st = hn_images_read_folder(&f, o, s);
    else
        st = hn_images_read_cifar(&f, o, s);
    if (st == HN_OK) st = hn_images_settle(s, o);
    if (st == HN_OK) {
        *out = s;
        s = NULL;
    }

done:
    hn_image_set_free(s);
    hn_image_files_free(&f);
    return st;
}

static hn_status read_train(const char *data, const hn_image_options *o, hn_image_set **out)
{
    HN_TRY(read_part(data, training, o, out));
    if (*out == NULL)
        return HN_FAIL(
            HN_ERR_ARG,
            "%s: no training images in this folder: idx files (train-images-idx3-ubyte), "
            "CIFAR binaries (train*.bin, data_batch*.bin) or folders of .jpg and .png "
            "files for each class; anything else by its name",
            data);
    return HN_OK;
}

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static hn_status read_eval(const char *data, const char *eval_data, const hn_image_options *o,
                           hn_image_set **out)
{
    if (eval_data == NULL) return is_folder(data) ? read_part(data, held_out, o, out) : HN_OK;
    const bool is_path = strpbrk(eval_data, "/,.*?") != NULL;
    if (!is_path && is_folder(data)) {
        const char *const words[] = {eval_data, strcmp(eval_data, "test") == 0 ? "t10k" : NULL,
                                     NULL};
        HN_TRY(read_part(data, words, o, out));
    }
    if (*out == NULL && (is_path || exists(eval_data))) {
        HN_TRY(read_part(eval_data, training, o, out));
        /* a folder of its own whose files are called test */
        if (*out == NULL) HN_TRY(read_part(eval_data, held_out, o, out));
    }
    if (*out == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: no images there, and no part of %s is called so", eval_data,
                       data);
    return HN_OK;
}

/* ---- held-out data have the classes, size and channels of the training data ---- */

static hn_status map_classes(const hn_image_set *train, hn_image_set *eval)
{
    const int32_t n = eval->v.n_classes;
    int32_t *to = hn_malloc((size_t)n * sizeof *to);
    hn_status st = HN_OK;
    if (to == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d classes", (int)n);
    for (int32_t i = 0; st == HN_OK && i < n; i++) {
        const bool same =
            i < train->v.n_classes && strcmp(train->class_name[i], eval->class_name[i]) == 0;
        to[i] = same ? i : -1;
        for (int32_t k = 0; k < train->v.n_classes && to[i] < 0; k++)
            if (strcmp(train->class_name[k], eval->class_name[i]) == 0) to[i] = k;
        if (to[i] < 0)
            st = HN_FAIL(HN_ERR_FORMAT, "%s: class '%s' is not in the training data %s", eval->name,
                         eval->class_name[i], train->name);
    }
    for (int64_t i = 0; st == HN_OK && i < eval->v.count; i++) eval->label[i] = to[eval->label[i]];
    hn_free(to);
    return st;
}

static hn_status align(hn_image_set *train, hn_image_set *eval)
{
    hn_images *t = &train->v, *e = &eval->v;
    if (e->c < t->c) {
        const hn_image_options colour = {.channels = t->c};
        HN_TRY(hn_images_settle(eval, &colour));
    }
    if (e->h != t->h || e->w != t->w || e->c != t->c)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: images of %" PRId64 " x %" PRId64 " pixels and %d channel(s); those of "
                       "%s have %" PRId64 " x %" PRId64 " and %d",
                       eval->name, e->w, e->h, e->c, train->name, t->w, t->h, t->c);
    if (train->named && eval->named)
        HN_TRY(map_classes(train, eval));
    else if (e->n_classes > t->n_classes && train->named)
        return HN_FAIL(HN_ERR_FORMAT, "%s: label %d; %s has %d classes", eval->name,
                       (int)e->n_classes - 1, train->name, (int)t->n_classes);
    else if (e->n_classes > t->n_classes)
        HN_TRY(hn_images_number_classes(train, e->n_classes));
    HN_TRY(hn_images_copy_names(eval, (const char *const *)train->class_name, t->n_classes));
    return hn_images_copy_superclasses(eval, train);
}

/* ---- cutting ---- */

/* The n images that are chosen (or not) as a set of their own. */
static hn_status pick(const hn_image_set *s, const bool *chosen, bool which, int64_t n,
                      const char *name, hn_image_set **out)
{
    const int64_t image = s->v.h * s->v.w * s->v.c;
    hn_image_set *p = NULL;
    hn_status st = HN_OK;
    HN_TRY(hn_images_new(name, &p));
    p->kind = s->kind;
    p->named = s->named;
    HN_TRY_GOTO(st, hn_images_room(p, &s->v, n), done);
    HN_TRY_GOTO(st, hn_images_copy_names(p, (const char *const *)s->class_name, s->v.n_classes),
                done);
    HN_TRY_GOTO(st, hn_images_copy_superclasses(p, s), done);
    for (int64_t i = 0, k = 0; i < s->v.count; i++) {
        if (chosen[i] != which) continue;
        memcpy(p->pixel + k * image, s->v.pixel + i * image, (size_t)image);
        p->label[k++] = s->label[i];
    }
    *out = p;
    p = NULL;

done:
    hn_image_set_free(p);
    return st;
}

/* Marks the last share of each class; *n images in all. */
static hn_status mark_last(const hn_image_set *s, double share, bool *chosen, int64_t *n)
{
    int64_t *left = hn_calloc((size_t)s->v.n_classes, sizeof *left);
    if (left == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d classes", s->v.n_classes);
    for (int64_t i = 0; i < s->v.count; i++) left[s->label[i]]++;
    for (int32_t c = 0; c < s->v.n_classes; c++) {
        int64_t take = (int64_t)floor((double)left[c] * share + 0.5);
        if (take >= left[c]) take = left[c] - 1;
        left[c] = take < 0 ? 0 : take;
        *n += left[c];
    }
    for (int64_t i = s->v.count - 1; i >= 0; i--)
        if (left[s->label[i]] > 0) {
            chosen[i] = true;
            left[s->label[i]]--;
        }
    hn_free(left);
    return HN_OK;
}

static hn_status cut(hn_image_set **train, double share, hn_image_set **eval)
{
    hn_image_set *s = *train, *stays = NULL, *goes = NULL;
    hn_status st = HN_OK;
    int64_t n = 0;
    char *stays_name = hn_strdup(s->name);
    char *goes_name = hn_asprintf("held-out %g %% of %s", 100 * share, s->name);
    bool *chosen = hn_calloc((size_t)s->v.count, sizeof *chosen);
    if (stays_name == NULL || goes_name == NULL || chosen == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to split %s", s->name);
        goto done;
    }
    HN_TRY_GOTO(st, mark_last(s, share, chosen, &n), done);
    if (n == 0) {
        st = HN_FAIL(HN_ERR_FORMAT,
                     "%s: no class has enough images for %g %% of them to be held out", s->name,
                     100 * share);
        goto done;
    }
    HN_TRY_GOTO(st, pick(s, chosen, false, s->v.count - n, stays_name, &stays), done);
    HN_TRY_GOTO(st, pick(s, chosen, true, n, goes_name, &goes), done);
    stays->n_skipped = s->n_skipped;
    stays->n_left_out = s->n_left_out;
    stays->n_alpha = s->n_alpha;
    stays->n_deep = s->n_deep;
    stays->n_turned = s->n_turned;
    stays->n_resized = s->n_resized;
    stays->n_grey = s->n_grey;
    stays->first_skipped = s->first_skipped;
    s->first_skipped = NULL;
    hn_image_set_free(s);
    *train = stays;
    *eval = goes;
    stays = goes = NULL;

done:
    hn_image_set_free(stays);
    hn_image_set_free(goes);
    hn_free(stays_name);
    hn_free(goes_name);
    hn_free(chosen);
    return st;
}

/* ---- one data set ---- */

/* split_wins: eval_split comes before what the folder holds out. Both sets are sealed. */
static hn_status open_one(const hn_image_options *o, const char *data, const char *eval_data,
                          bool split_wins, hn_image_set **train, hn_image_set **eval)
{
    hn_image_set *t = NULL, *e = NULL;
    hn_status st = HN_OK;
    HN_TRY_GOTO(st, read_train(data, o, &t), done);
    if (eval_data != NULL || o->eval_split == 0 || !split_wins)
        HN_TRY_GOTO(st, read_eval(data, eval_data, o, &e), done);
    if (e == NULL && o->eval_split > 0)
        HN_TRY_GOTO(st, cut(&t, o->eval_split, &e), done);
    else if (e != NULL)
        HN_TRY_GOTO(st, align(t, e), done);
    HN_TRY_GOTO(st, hn_images_seal(t), done);
    if (e != NULL) HN_TRY_GOTO(st, hn_images_seal(e), done);
    *train = t;
    *eval = e;
    t = e = NULL;

done:
    hn_image_set_free(t);
    hn_image_set_free(e);
    return st;
}

/* ---- joining ---- */

static bool name_is_elsewhere(const hn_image_set *const *sets, int n, int mine, const char *name)
{
    for (int k = 0; k < n; k++)
        for (int32_t i = 0; k != mine && i < sets[k]->v.n_classes; i++)
            if (strcmp(sets[k]->class_name[i], name) == 0) return true;
    return false;
}

/* "<last two parts of the set's path>" would be long: the part before the file, or the folder. */
static hn_status short_name(const hn_image_set *s, int number, char **out)
{
    const char *end = strrchr(s->name, '/'), *from = end;
    struct stat info;
    if (stat(s->name, &info) == 0 && S_ISDIR(info.st_mode)) {
        from = end ? end + 1 : s->name;
        end = s->name + strlen(s->name);
    } else if (end != NULL) {
        while (from > s->name && from[-1] != '/') from--;
    }
    *out = end != NULL && end > from ? hn_strndup(from, (size_t)(end - from))
                                     : hn_asprintf("%d", number + 1);
    return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
}

static hn_status join_names(const hn_image_set *const *classes, int n, hn_image_set *s)
{
    int32_t at = 0, *first = hn_malloc(((size_t)n + 1) * sizeof *first);
    const char **name = NULL;
    char **prefix = hn_calloc((size_t)n, sizeof *prefix), **made = NULL;
    int32_t total = 0;
    hn_status st = HN_OK;
    for (int k = 0; k < n; k++) total += classes[k]->v.n_classes;
    name = hn_malloc((size_t)total * sizeof *name);
    made = hn_calloc((size_t)total, sizeof *made);
    if (first == NULL || prefix == NULL || name == NULL || made == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for %d classes", (int)total);
        goto done;
    }
    for (int k = 0; k < n; k++) {
        HN_TRY_GOTO(st, short_name(classes[k], k, &prefix[k]), done);
        for (int j = 0; j < k; j++)
            if (strcmp(prefix[j], prefix[k]) == 0) { /* twice the same folder */
                hn_free(prefix[k]);
                prefix[k] = hn_asprintf("%d", k + 1);
                if (prefix[k] == NULL) {
                    st = HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
                    goto done;
                }
            }
    }
    for (int k = 0; k < n; k++) {
        first[k] = at;
        for (int32_t i = 0; i < classes[k]->v.n_classes; i++, at++) {
            name[at] = classes[k]->class_name[i];
            if (!name_is_elsewhere(classes, n, k, name[at])) continue;
            name[at] = made[at] = hn_asprintf("%s:%s", prefix[k], name[at]);
            if (name[at] == NULL) {
                st = HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
                goto done;
            }
        }
    }
    first[n] = at;
    HN_TRY_GOTO(st, hn_images_copy_names(s, name, total), done);
    st = hn_images_copy_parts(s, first, n);

done:
    for (int k = 0; prefix != NULL && k < n; k++) hn_free(prefix[k]);
    for (int32_t i = 0; made != NULL && i < total; i++) hn_free(made[i]);
    hn_free(prefix);
    hn_free(made);
    hn_free(name);
    hn_free(first);
    return st;
}

/* classes  sets whose classes count; sets: whose images, NULL: none of that part */
static hn_status join(const hn_image_set *const *classes, const hn_image_set *const *sets, int n,
                      hn_image_set **out)
{
    hn_image_set *s = NULL;
    const hn_images *like = NULL;
    char *name = hn_strdup("");
    hn_status st = name ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    int64_t count = 0;
    for (int k = 0; st == HN_OK && k < n; k++) {
        if (sets[k] == NULL) continue;
        const hn_images *v = &sets[k]->v;
        if (like == NULL) like = v;
        if (v->h != like->h || v->w != like->w || v->c != like->c)
            st = HN_FAIL(HN_ERR_SHAPE,
                         "%s: images of %" PRId64 " x %" PRId64 " pixels and %d channel(s) cannot "
                         "follow those of %" PRId64 " x %" PRId64 " and %d: give an image size, or "
                         "3 channels",
                         sets[k]->name, v->w, v->h, v->c, like->w, like->h, like->c);
        char *longer = hn_asprintf("%s%s%s", name, *name ? " + " : "", sets[k]->name);
        hn_free(name);
        name = longer;
        if (name == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
        count += v->count;
    }
    if (st == HN_OK && count > INT32_MAX)
        st = HN_FAIL(HN_ERR_SHAPE, "%" PRId64 " images: at most %d", count, INT32_MAX);
    if (st == HN_OK) st = hn_images_new(name, &s);
    if (st == HN_OK) st = hn_images_room(s, like, count);
    if (st == HN_OK) st = join_names(classes, n, s);
    int64_t at = 0;
    for (int k = 0; st == HN_OK && k < n; k++) {
        if (sets[k] == NULL) continue;
        memcpy(s->pixel + at * like->h * like->w * like->c, sets[k]->v.pixel,
               (size_t)hn_image_set_bytes(sets[k]));
        for (int64_t i = 0; i < sets[k]->v.count; i++)
            s->label[at + i] = sets[k]->label[i] + s->part_class[k];
        at += sets[k]->v.count;
        s->named = true;
    }
    if (st == HN_OK) st = hn_images_seal(s);
    if (st == HN_OK)
        *out = s;
    else
        hn_image_set_free(s);
    hn_free(name);
    return st;
}

hn_status hn_image_sets_join(const hn_image_set *const *sets, int n, hn_image_set **out)
{
    if (n < 1) return HN_FAIL(HN_ERR_ARG, "no image sets to join");
    return join(sets, sets, n, out);
}

/* ---- pooling ---- */

/* Errors name both sets. */
static hn_status check_alike(const hn_image_set *a, const hn_image_set *b)
{
    const hn_images *v = &a->v, *w = &b->v;
    if (v->h != w->h || v->w != w->w || v->c != w->c)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: images of %" PRId64 " x %" PRId64 " pixels and %d channel(s); those of "
                       "%s have %" PRId64 " x %" PRId64 " and %d",
                       b->name, w->w, w->h, w->c, a->name, v->w, v->h, v->c);
    if (v->n_classes != w->n_classes)
        return HN_FAIL(HN_ERR_ARG, "%s has %d classes, %s has %d", a->name, (int)v->n_classes,
                       b->name, (int)w->n_classes);
    for (int32_t c = 0; c < v->n_classes; c++)
        if (strcmp(a->class_name[c], b->class_name[c]) != 0)
            return HN_FAIL(HN_ERR_ARG, "class %d is '%s' in %s and '%s' in %s", (int)c,
                           a->class_name[c], a->name, b->class_name[c], b->name);
    return HN_OK;
}

/* What another set's images say of the superclasses, too. */
static void merge_superclasses(hn_image_set *s, const hn_image_set *from)
{
    if (from->n_super != s->n_super || s->n_super == 0) return;
    for (int32_t c = 0; c < s->v.n_classes; c++) {
        const int32_t said = from->super_of[c];
        if (s->super_of[c] == HN_SUPERCLASS_NONE)
            s->super_of[c] = said;
        else if (said != HN_SUPERCLASS_NONE && said != s->super_of[c])
            s->super_of[c] = HN_SUPERCLASS_MIXED;
    }
}

hn_status hn_image_sets_pool(const hn_image_set *const *sets, int n, hn_image_set **out)
{
    hn_status st = HN_OK;
    hn_image_set *s = NULL;
    int64_t count = 0, at = 0;
    if (n < 1) return HN_FAIL(HN_ERR_ARG, "no image sets to pool");
    for (int k = 0; k < n; k++) {
        HN_TRY(check_alike(sets[0], sets[k]));
        count += sets[k]->v.count;
    }
    if (count > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE, "%" PRId64 " images: at most %d", count, INT32_MAX);
    const hn_images *v = &sets[0]->v;
    HN_TRY(hn_images_new(sets[0]->name, &s));
    s->kind = sets[0]->kind;
    s->named = sets[0]->named;
    HN_TRY_GOTO(st, hn_images_room(s, v, count), done);
    HN_TRY_GOTO(st, hn_images_copy_names(s, v->class_name, v->n_classes), done);
    HN_TRY_GOTO(st, hn_images_copy_parts(s, v->part_class, v->n_parts), done);
    HN_TRY_GOTO(st, hn_images_copy_superclasses(s, sets[0]), done);
    for (int k = 0; k < n; k++) {
        memcpy(s->pixel + at * v->h * v->w * v->c, sets[k]->v.pixel,
               (size_t)hn_image_set_bytes(sets[k]));
        memcpy(s->label + at, sets[k]->label, (size_t)sets[k]->v.count * sizeof *s->label);
        at += sets[k]->v.count;
        merge_superclasses(s, sets[k]);
    }
    HN_TRY_GOTO(st, hn_images_seal(s), done);
    *out = s;
    s = NULL;

done:
    hn_image_set_free(s);
    return st;
}

/* ---- A+B ---- */

static hn_status split_list(const char *list, hn_paths *out)
{
    if (exists(list)) return hn_paths_add(out, hn_strdup(list));
    for (const char *at = list;;) {
        const size_t n = strcspn(at, "+");
        if (n == 0) return HN_FAIL(HN_ERR_ARG, "'%s': an empty name beside +", list);
        HN_TRY(hn_paths_add(out, hn_strndup(at, n)));
        if (at[n] == '\0') return HN_OK;
        at += n + 1;
    }
}

static hn_status check_options(const hn_image_options *o)
{
    enum { MAX_SIZE = 8192 };
    if (o->data == NULL || *o->data == '\0') return HN_FAIL(HN_ERR_ARG, "no image data are named");
    if (o->eval_split != 0 && !(o->eval_split > 0 && o->eval_split < 1))
        return HN_FAIL(HN_ERR_ARG, "held-out share %g must lie between 0 and 1", o->eval_split);
    if (o->channels != 0 && o->channels != 1 && o->channels != 3)
        return HN_FAIL(HN_ERR_ARG, "%d channels: 1 or 3", o->channels);
    if (o->image_size < 0 || o->image_size > MAX_SIZE)
        return HN_FAIL(HN_ERR_ARG, "image size %" PRId64 ": 1..%d", o->image_size, MAX_SIZE);
    if (o->folder_side > MAX_SIZE || o->folder_crop < 0 || o->folder_crop > o->folder_side ||
        (o->folder_side > 0 && o->folder_crop == 0))
        return HN_FAIL(HN_ERR_ARG, "images of %" PRId64 " pixels, %" PRId64 " cut from each: 1..%d",
                       o->folder_side, o->folder_crop, MAX_SIZE);
    if (o->class_images < 0)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " images of each class", o->class_images);
    if (o->limits.max_pixels < 0 || o->limits.max_bytes < 0)
        return HN_FAIL(HN_ERR_ARG, "limits of %" PRId64 " pixels and %" PRId64 " bytes",
                       o->limits.max_pixels, o->limits.max_bytes);
    return HN_OK;
}

/* Takes over what it gives out or frees. */
static hn_status open_all(const hn_image_options *o, const hn_paths *data, const hn_paths *eval,
                          hn_image_set **train_of, hn_image_set **eval_of, hn_image_set **train,
                          hn_image_set **held)
{
    const int n = (int)data->n;
    bool any = false;
    for (int k = 0; k < n; k++) {
        HN_TRY(open_one(o, data->path[k], eval->n ? eval->path[k] : NULL, n == 1, &train_of[k],
                        &eval_of[k]));
        any = any || eval_of[k] != NULL;
    }
    if (n == 1) {
        *train = train_of[0];
        *held = eval_of[0];
        train_of[0] = eval_of[0] = NULL;
        return HN_OK;
    }
    const hn_image_set *const *classes = (const hn_image_set *const *)train_of;
    HN_TRY(join(classes, classes, n, train));
    return any ? join(classes, (const hn_image_set *const *)eval_of, n, held) : HN_OK;
}

/* They go into JSON files: those that cannot are found now, not when a result is written. */
static hn_status check_names(const hn_image_set *s)
{
    const hn_images *v = hn_image_set_view(s);
    for (int32_t k = 0; k < v->n_classes; k++) {
        json_t *text = json_string(v->class_name[k]);
        const bool utf8 = text != NULL;
        json_decref(text);
        if (!utf8)
            return HN_FAIL(HN_ERR_FORMAT, "%s: the name of class %d, '%.80s', is not UTF-8",
                           hn_image_set_name(s), (int)k, v->class_name[k]);
    }
    return HN_OK;
}

hn_status hn_image_sets_open(const hn_image_options *o, hn_image_set **train, hn_image_set **eval)
{
    enum { MOST = 64 };
    hn_status st = HN_OK;
    hn_paths data = {0}, held = {0};
    hn_image_set *t = NULL, *e = NULL, *train_of[MOST] = {0}, *eval_of[MOST] = {0};
    HN_TRY_GOTO(st, check_options(o), done);
    HN_TRY_GOTO(st, split_list(o->data, &data), done);
    if (o->eval_data != NULL) HN_TRY_GOTO(st, split_list(o->eval_data, &held), done);
    if (data.n > MOST || (held.n > 0 && held.n != data.n)) {
        st = HN_FAIL(HN_ERR_ARG,
                     "%" PRId64 " data sets joined by + and %" PRId64
                     " for evaluation: at most %d, and as many of both",
                     data.n, held.n, MOST);
        goto done;
    }
    HN_TRY_GOTO(st, open_all(o, &data, &held, train_of, eval_of, &t, &e), done);
    if (t != NULL) HN_TRY_GOTO(st, check_names(t), done);
    if (e != NULL) HN_TRY_GOTO(st, check_names(e), done);
    if (train != NULL) {
        *train = t;
        t = NULL;
    }
    if (eval != NULL) {
        *eval = e;
        e = NULL;
    }

done:
    for (int k = 0; k < MOST; k++) {
        hn_image_set_free(train_of[k]);
        hn_image_set_free(eval_of[k]);
    }
    hn_image_set_free(t);
    hn_image_set_free(e);
    hn_paths_free(&data);
    hn_paths_free(&held);
    return st;
}
