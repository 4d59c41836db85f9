#define _POSIX_C_SOURCE 200809L
#include "runtime/base/mapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

hn_status hn_mapfile_open(const char *path, hn_mapfile *out)
{
    hn_status st = HN_OK;
    struct stat info;
    void *data = NULL;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not block */
    if (fd < 0) return HN_FAIL(HN_ERR_IO, "open %s: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0) {
        st = HN_FAIL(HN_ERR_IO, "stat %s: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(info.st_mode)) {
        st = HN_FAIL(HN_ERR_IO, "%s: not a regular file", path);
        goto done;
    }
    if (info.st_size > 0) {
        data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            st = HN_FAIL(HN_ERR_IO, "map %s: %s", path, strerror(errno));
            goto done;
        }
    }
    *out = (hn_mapfile){.data = data, .size = (size_t)info.st_size};

done:
    close(fd);
    return st;
}

void hn_mapfile_close(hn_mapfile *m)
{
    if (m == NULL || m->data == NULL) return;
    munmap((void *)(size_t)m->data, m->size);
    *m = (hn_mapfile){0};
}
