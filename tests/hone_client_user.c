/* hone_client_user.c - a client of federated training that knows nothing of hone but one header:
 *   hone_client_user CLIENT CONFIG MODEL UPDATE
 * reads its options from CONFIG and the server's message from MODEL, trains, writes its own message
 * to UPDATE, and prints what came of it. */
#include "runtime/train/hone_client.h"

#include <stdio.h>
#include <stdlib.h>

/* The whole file and a final zero; the caller frees it. NULL: it cannot be read. */
static char *read_all(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    char *data = NULL;
    long size = -1;
    if (f != NULL && fseek(f, 0, SEEK_END) == 0) size = ftell(f);
    if (size >= 0 && fseek(f, 0, SEEK_SET) == 0) data = malloc((size_t)size + 1);
    if (data != NULL && fread(data, 1, (size_t)size, f) != (size_t)size) {
        free(data);
        data = NULL;
    }
    if (data != NULL) data[size] = '\0';
    if (f != NULL) fclose(f);
    *n = size >= 0 ? (size_t)size : 0;
    return data;
}

static int write_all(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    const int good = f != NULL && fwrite(data, 1, n, f) == n;
    return (f == NULL || fclose(f) == 0) && good ? HONE_OK : HONE_FAILED;
}

static int take_part(hone_client *c, const char *model, size_t n, const char *to)
{
    hone_trained trained = {.size = sizeof trained};
    hone_scores scores = {.size = sizeof scores};
    const void *update;
    size_t n_update;
    int code = hone_client_set_payload(c, model, n);
    if (code == HONE_OK) code = hone_client_train_round(c, NULL, &trained);
    if (code == HONE_OK) code = hone_client_evaluate(c, &scores);
    if (code == HONE_OK) code = hone_client_get_payload(c, &update, &n_update);
    if (code == HONE_OK) code = write_all(to, update, n_update);
    if (code == HONE_OK)
        printf("round %lld: %lld images, %lld steps, loss %.4f, accuracy %.4f, %zu bytes\n",
               (long long)hone_client_round(c), (long long)hone_client_images(c),
               (long long)trained.steps, trained.loss, scores.accuracy, n_update);
    return code;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: hone_client_user CLIENT CONFIG MODEL UPDATE (hone %s)\n",
                hone_version());
        return HONE_BAD_INPUT;
    }
    size_t n_config, n_model;
    char *config = read_all(argv[2], &n_config), *model = read_all(argv[3], &n_model);
    hone_client *c = NULL;
    int code = HONE_BAD_INPUT;
    if (config != NULL && model != NULL) {
        const hone_client_options o = {
            .size = sizeof o, .client = strtol(argv[1], NULL, 10), .config = config};
        code = hone_client_load(&o, &c);
        if (code == HONE_OK) code = take_part(c, model, n_model, argv[4]);
    }
    if (code != HONE_OK) fprintf(stderr, "hone_client_user: %s\n", hone_last_error());
    hone_client_free(c);
    free(config);
    free(model);
    return code;
}
