/* file_limit.h - writes that fail, for the tests of savers. */
#ifndef HN_FILE_LIMIT_H
#define HN_FILE_LIMIT_H
#include <sys/resource.h>

#include <csignal>
#include <cstddef>

/* Limits the size of files this process may write while it lives: the portable full disk. */
class FileSizeLimit {
    struct rlimit old_ = {};
    void (*handler_)(int);

  public:
    explicit FileSizeLimit(size_t bytes)
    {
        getrlimit(RLIMIT_FSIZE, &old_);
        handler_ = std::signal(SIGXFSZ, SIG_IGN);
        struct rlimit tight = old_;
        tight.rlim_cur = bytes;
        setrlimit(RLIMIT_FSIZE, &tight);
    }
    FileSizeLimit(const FileSizeLimit &) = delete;
    ~FileSizeLimit()
    {
        setrlimit(RLIMIT_FSIZE, &old_);
        std::signal(SIGXFSZ, handler_);
    }
};
#endif
