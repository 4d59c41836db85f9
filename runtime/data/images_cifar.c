/* CIFAR's binary records (www.cs.toronto.edu/~kriz/cifar.html): the label, CIFAR-100 the coarse and
 * the fine label, then 1024 bytes each of red, green and blue, row by row. */
#include <inttypes.h>
#include <string.h>

#include "runtime/data/data_util.h"
#include "runtime/data/images_impl.h"

enum { SIDE = 32, PLANE = SIDE * SIDE, PIXELS = 3 * PLANE };

static int labels_of(hn_image_kind kind) { return kind == HN_IMAGES_CIFAR100 ? 2 : 1; }
static int64_t record_of(hn_image_kind kind) { return labels_of(kind) + PIXELS; }
static const char *name_of(hn_image_kind kind)
{
    return kind == HN_IMAGES_CIFAR100 ? "CIFAR-100" : "CIFAR-10";
}

/* First record with a label outside the classes; -1: none. *what names the label. */
static int64_t bad_record(const uint8_t *data, size_t n_bytes, hn_image_kind kind,
                          const char **what, int *classes)
{
    const int64_t record = record_of(kind), n = (int64_t)n_bytes / record;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *p = data + i * record;
        const bool hundred = kind == HN_IMAGES_CIFAR100;
        const bool first = p[0] >= (hundred ? 20 : 10), second = hundred && p[1] >= 100;
        if (!first && !second) continue;
        *what = !hundred ? "label" : first ? "coarse label" : "fine label";
        *classes = !hundred ? 10 : first ? 20 : 100;
        return i;
    }
    return -1;
}

static hn_status check_kind(const uint8_t *data, size_t n_bytes, const char *name,
                            hn_image_kind kind)
{
    const int64_t record = record_of(kind);
    const char *what = "";
    int classes = 0;
    if (n_bytes == 0) return HN_FAIL(HN_ERR_FORMAT, "%s: the file is empty", name);
    if ((int64_t)n_bytes % record != 0)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: %zu bytes are %" PRId64 " records of %" PRId64
                       " bytes (%s) and %" PRId64 " bytes of a record that is cut off",
                       name, n_bytes, (int64_t)n_bytes / record, record, name_of(kind),
                       (int64_t)n_bytes % record);
    const int64_t bad = bad_record(data, n_bytes, kind, &what, &classes);
    if (bad >= 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: record %" PRId64 ": %s %d, %s has %d", name, bad, what,
                       data[bad * record + (classes == 100)], name_of(kind), classes);
    return HN_OK;
}

/* Which kinds the bytes can be. */
static hn_status guess(const uint8_t *data, size_t n_bytes, const char *name, hn_image_kind *kind)
{
    const char *what;
    int classes;
    bool can[2];
    for (int i = 0; i < 2; i++) {
        const hn_image_kind k = i ? HN_IMAGES_CIFAR100 : HN_IMAGES_CIFAR10;
        can[i] = (int64_t)n_bytes % record_of(k) == 0;
    }
    if (!can[0] && !can[1])
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: %zu bytes are neither whole records of CIFAR-10 (%" PRId64
                       " bytes) nor of CIFAR-100 (%" PRId64 "): the file is cut off, or something "
                       "else",
                       name, n_bytes, record_of(HN_IMAGES_CIFAR10), record_of(HN_IMAGES_CIFAR100));
    if (can[0] && can[1]) {
        can[0] = bad_record(data, n_bytes, HN_IMAGES_CIFAR10, &what, &classes) < 0;
        can[1] = bad_record(data, n_bytes, HN_IMAGES_CIFAR100, &what, &classes) < 0;
    }
    if (can[0] == can[1])
        return HN_FAIL(can[0] ? HN_ERR_ARG : HN_ERR_FORMAT,
                       "%s: %s: name the kind, cifar10 or cifar100", name,
                       can[0] ? "may be CIFAR-10 as well as CIFAR-100"
                              : "labels are outside the classes of CIFAR-10 and CIFAR-100");
    *kind = can[0] ? HN_IMAGES_CIFAR10 : HN_IMAGES_CIFAR100;
    return HN_OK;
}

hn_status hn_cifar_parse(const uint8_t *data, size_t n_bytes, const char *name, hn_image_kind kind,
                         hn_image_kind *found, int64_t *count)
{
    if (n_bytes > 0 && kind == HN_IMAGES_AUTO) HN_TRY(guess(data, n_bytes, name, &kind));
    HN_TRY(check_kind(data, n_bytes, name, kind));
    *found = kind;
    *count = (int64_t)n_bytes / record_of(kind);
    return HN_OK;
}

void hn_cifar_copy(const uint8_t *data, int64_t count, hn_image_kind kind, bool coarse,
                   int32_t *label, uint8_t *pixel)
{
    const int64_t record = record_of(kind);
    const int n_labels = labels_of(kind), which = kind == HN_IMAGES_CIFAR100 && !coarse ? 1 : 0;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *p = data + i * record;
        uint8_t *to = pixel + i * PIXELS;
        label[i] = p[which];
        p += n_labels;
        for (int64_t k = 0; k < PLANE; k++)
            for (int c = 0; c < 3; c++) to[3 * k + c] = p[c * PLANE + k];
    }
}

/* What the coarse labels say of the fine classes. */
static hn_status note_superclasses(hn_image_set *s, const uint8_t *data, int64_t count)
{
    if (s->super_of == NULL) {
        s->super_of = hn_malloc(100 * sizeof *s->super_of);
        if (s->super_of == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for superclasses");
        for (int i = 0; i < 100; i++) s->super_of[i] = HN_SUPERCLASS_NONE;
    }
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *p = data + i * record_of(HN_IMAGES_CIFAR100);
        int32_t *super = &s->super_of[p[1]];
        if (*super == HN_SUPERCLASS_NONE)
            *super = p[0];
        else if (*super != p[0])
            *super = HN_SUPERCLASS_MIXED;
    }
    return HN_OK;
}

/* Their names, by the same files and rules as those of coarse classes. */
static hn_status name_superclasses(const hn_image_files *f, const char *const *files,
                                   hn_image_set *s)
{
    hn_image_set *twenty = NULL;
    HN_TRY(hn_images_new(s->name, &twenty));
    hn_status st = hn_images_name_classes(twenty, f->folder, files, 20);
    if (st == HN_OK && twenty->class_name == NULL) st = hn_images_number_classes(twenty, 20);
    if (st == HN_OK) {
        s->super_name = twenty->class_name;
        s->n_super = 20;
        twenty->class_name = NULL;
    }
    hn_image_set_free(twenty);
    return st;
}

/* Appends a file's records; *room: images there is room for. */
static hn_status append(hn_image_set *s, const hn_data_bytes *b, const char *path, bool coarse,
                        int64_t most_bytes, hn_image_kind *kind, int64_t room[2])
{
    int64_t n = 0;
    HN_TRY(hn_cifar_parse(b->data, b->n_bytes, path, *kind, kind, &n));
    const int64_t count = s->v.count + n;
    if (count > INT32_MAX || count > most_bytes / PIXELS)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: %" PRId64 " images so far are more than the limit of %" PRId64 " bytes",
                       path, count, most_bytes);
    HN_TRY(hn_reserve(&s->pixel, &room[0], count, PIXELS));
    HN_TRY(hn_reserve(&s->label, &room[1], count, sizeof *s->label));
    hn_cifar_copy(b->data, n, *kind, coarse, s->label + s->v.count, s->pixel + s->v.count * PIXELS);
    s->v.count = count;
    return *kind == HN_IMAGES_CIFAR100 && !coarse ? note_superclasses(s, b->data, n) : HN_OK;
}

static hn_status name_classes(const hn_image_files *f, hn_image_kind kind, bool coarse,
                              hn_image_set *s)
{
    static const char *const ten[] = {"classes.txt", "batches.meta.txt", NULL};
    static const char *const twenty[] = {"coarse_classes.txt", "coarse_label_names.txt", NULL};
    static const char *const hundred[] = {"fine_classes.txt", "fine_label_names.txt", NULL};
    const bool is_ten = kind == HN_IMAGES_CIFAR10;
    const int32_t n = is_ten ? 10 : coarse ? 20 : 100;
    HN_TRY(hn_images_name_classes(s, f->folder, is_ten ? ten : coarse ? twenty : hundred, n));
    if (s->super_of != NULL) HN_TRY(name_superclasses(f, twenty, s));
    return s->class_name ? HN_OK : hn_images_number_classes(s, n);
}

hn_status hn_images_read_cifar(const hn_image_files *f, const hn_image_options *o, hn_image_set *s)
{
    const int64_t most = o->limits.max_bytes ? o->limits.max_bytes : HN_IMAGE_MAX_BYTES;
    hn_image_kind kind = f->kind;
    int64_t room[2] = {0, 0};
    for (int64_t i = 0; i < f->files.n; i++) {
        hn_data_bytes b = {0};
        hn_status st = hn_data_bytes_read(f->files.path[i], most, &b);
        if (st == HN_OK) st = append(s, &b, f->files.path[i], o->coarse, most, &kind, room);
        hn_data_bytes_free(&b);
        HN_TRY(st);
    }
    if (o->coarse && kind != HN_IMAGES_CIFAR100)
        return HN_FAIL(HN_ERR_ARG, "%s: coarse labels are a thing of CIFAR-100", f->files.path[0]);
    s->kind = kind == HN_IMAGES_CIFAR10 ? "CIFAR-10"
              : o->coarse               ? "CIFAR-100, coarse labels"
                                        : "CIFAR-100";
    s->v.h = s->v.w = SIDE;
    s->v.c = 3;
    s->v.pixel = s->pixel;
    return name_classes(f, kind, o->coarse, s);
}
