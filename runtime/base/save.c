#define _XOPEN_SOURCE 700
#include "runtime/base/save.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/mapfile.h"

enum { BUFFER = 1 << 18 };

hn_status hn_write_status(int why)
{
    switch (why) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EEXIST:
    case ENOTEMPTY:
    case EACCES:
    case EPERM:
    case EROFS:
    case ELOOP:
    case ENAMETOOLONG:
    case ETXTBSY: return HN_ERR_IO;
    default: return HN_ERR_WRITE;
    }
}

struct hn_saver {
    char *path, *temporary;
    int fd;
    uint64_t n_bytes;
    EVP_MD_CTX *digest;
    size_t used;
    unsigned char buffer[BUFFER];
};

static void saver_free(hn_saver *s)
{
    if (s->fd >= 0) close(s->fd);
    EVP_MD_CTX_free(s->digest);
    hn_free(s->path);
    hn_free(s->temporary);
    hn_free(s);
}

hn_status hn_saver_open(const char *path, hn_saver **out)
{
    hn_saver *s = hn_malloc(sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes to write %s", sizeof *s, path);
    *s = (hn_saver){.fd = -1};
    s->path = hn_strdup(path);
    s->temporary = hn_asprintf("%s.tmp-%ld", path, (long)getpid());
    s->digest = EVP_MD_CTX_new();
    hn_status st = HN_OK;
    if (!s->path || !s->temporary || !s->digest ||
        EVP_DigestInit_ex(s->digest, EVP_sha256(), NULL) != 1) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", path);
    } else {
        s->fd = open(s->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (s->fd < 0)
            st = HN_FAIL(hn_write_status(errno), "create %s: %s", s->temporary, strerror(errno));
    }
    if (st != HN_OK)
        saver_free(s);
    else
        *out = s;
    return st;
}

static hn_status flush(hn_saver *s)
{
    for (size_t done = 0; done < s->used;) {
        const ssize_t n = write(s->fd, s->buffer + done, s->used - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return HN_FAIL(hn_write_status(errno), "write %s: %s", s->temporary, strerror(errno));
        done += (size_t)n;
    }
    s->used = 0;
    return HN_OK;
}

hn_status hn_saver_write(hn_saver *s, const void *data, size_t n_bytes)
{
    const unsigned char *p = data;
    if (n_bytes > 0 && EVP_DigestUpdate(s->digest, data, n_bytes) != 1)
        return HN_FAIL(HN_ERR_MEMORY, "SHA-256 of %s failed", s->path);
    s->n_bytes += n_bytes;
    while (n_bytes > 0) {
        const size_t room = BUFFER - s->used, n = n_bytes < room ? n_bytes : room;
        memcpy(s->buffer + s->used, p, n);
        s->used += n;
        p += n;
        n_bytes -= n;
        if (s->used == BUFFER) HN_TRY(flush(s));
    }
    return HN_OK;
}

static void to_hex(const unsigned char digest[32], char hex[HN_SHA256_HEX])
{
    for (int i = 0; i < 32; i++) snprintf(hex + (ptrdiff_t)2 * i, 3, "%02x", (unsigned)digest[i]);
}

static hn_status sync_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return hn_sync_dir(".");
    char *dir = hn_strndup(path, slash == path ? 1 : (size_t)(slash - path));
    if (dir == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the folder of %s", path);
    const hn_status st = hn_sync_dir(dir);
    hn_free(dir);
    return st;
}

hn_status hn_saver_commit(hn_saver *s, uint64_t *n_bytes, char hex[HN_SHA256_HEX])
{
    unsigned char digest[32];
    hn_status st = flush(s);
    if (st != HN_OK) goto done;
    if (EVP_DigestFinal_ex(s->digest, digest, NULL) != 1) {
        st = HN_FAIL(HN_ERR_MEMORY, "SHA-256 of %s failed", s->path);
        goto done;
    }
    if (fsync(s->fd) != 0) {
        st = HN_FAIL(hn_write_status(errno), "fsync %s: %s", s->temporary, strerror(errno));
        goto done;
    }
    if (rename(s->temporary, s->path) != 0) {
        st = HN_FAIL(hn_write_status(errno), "rename %s to %s: %s", s->temporary, s->path,
                     strerror(errno));
        goto done;
    }
    st = sync_parent(s->path);
    if (n_bytes != NULL) *n_bytes = s->n_bytes;
    if (hex != NULL) to_hex(digest, hex);

done:
    if (st != HN_OK) unlink(s->temporary);
    saver_free(s);
    return st;
}

void hn_saver_abort(hn_saver *s)
{
    if (s == NULL) return;
    unlink(s->temporary);
    saver_free(s);
}

hn_status hn_save_file(const char *path, const void *data, size_t n_bytes)
{
    hn_saver *s = NULL;
    HN_TRY(hn_saver_open(path, &s));
    const hn_status st = hn_saver_write(s, data, n_bytes);
    if (st == HN_OK) return hn_saver_commit(s, NULL, NULL);
    hn_saver_abort(s);
    return st;
}

hn_status hn_save_text(const char *path, const char *text)
{
    return hn_save_file(path, text, strlen(text));
}

hn_status hn_sha256(const void *data, size_t n_bytes, char hex[HN_SHA256_HEX])
{
    unsigned char digest[32];
    if (EVP_Digest(n_bytes ? data : "", n_bytes, digest, NULL, EVP_sha256(), NULL) != 1)
        return HN_FAIL(HN_ERR_MEMORY, "SHA-256 of %zu bytes failed", n_bytes);
    to_hex(digest, hex);
    return HN_OK;
}

hn_status hn_sha256_file(const char *path, uint64_t *n_bytes, char hex[HN_SHA256_HEX])
{
    hn_mapfile map = {0};
    HN_TRY(hn_mapfile_open(path, &map));
    const hn_status st = hn_sha256(map.data, map.size, hex);
    if (n_bytes != NULL) *n_bytes = map.size;
    hn_mapfile_close(&map);
    return st;
}

hn_status hn_make_dirs(const char *path)
{
    char *p = hn_strdup(path);
    if (p == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", path);
    hn_status st = HN_OK;
    for (char *at = p + 1; st == HN_OK; at++) {
        if (*at != '/' && *at != '\0') continue;
        const char kept = *at;
        *at = '\0';
        struct stat info;
        if (mkdir(p, 0777) != 0 && errno != EEXIST)
            st = HN_FAIL(hn_write_status(errno), "create folder %s: %s", p, strerror(errno));
        else if (stat(p, &info) != 0 || !S_ISDIR(info.st_mode))
            st = HN_FAIL(HN_ERR_IO, "create folder %s: a file of that name is there", p);
        *at = kept;
        if (kept == '\0') break;
    }
    hn_free(p);
    return st;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info, (void)kind, (void)walk;
    return remove(path);
}

hn_status hn_remove_tree(const char *path)
{
    struct stat info;
    if (lstat(path, &info) != 0 && errno == ENOENT) return HN_OK;
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0)
        return HN_FAIL(hn_write_status(errno), "remove %s: %s", path, strerror(errno));
    return HN_OK;
}

hn_status hn_sync_dir(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return HN_FAIL(HN_ERR_IO, "open folder %s: %s", path, strerror(errno));
    const int failed = fsync(fd) != 0 && errno != EINVAL && errno != EROFS;
    const int why = errno;
    close(fd);
    return failed ? HN_FAIL(hn_write_status(why), "fsync folder %s: %s", path, strerror(why))
                  : HN_OK;
}
