/* Any bytes as a list of hosts or of tasks; names of a list that is accepted, written one by one,
 * are the same list again. */
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "runtime/comm/hostlist.h"

static void hosts(const std::string &list)
{
    int64_t n = 0, again = 0;
    if (hn_hostlist_count(list.c_str(), &n) != HN_OK) return;
    if (n < 1 || n > HN_HOSTLIST_MAX) std::abort();
    const int64_t some = n < 8 ? n : 8; /* the first ones and the last */
    std::string plain;
    char name[HN_HOSTLIST_NAME];
    for (int64_t i = 0; i < some; i++) {
        const int64_t at = i == some - 1 ? n - 1 : i;
        if (hn_hostlist_name(list.c_str(), at, name) != HN_OK) return; /* too long a name */
        if (std::strlen(name) == 0 || std::strlen(name) >= HN_HOSTLIST_NAME) std::abort();
        plain += (i ? "," : "") + std::string(name);
    }
    if (hn_hostlist_count(plain.c_str(), &again) != HN_OK || again != some) std::abort();
    char last[HN_HOSTLIST_NAME];
    if (hn_hostlist_name(plain.c_str(), some - 1, last) != HN_OK || std::strcmp(last, name) != 0)
        std::abort();
    if (hn_hostlist_name(list.c_str(), n, name) == HN_OK) std::abort();
}

static void tasks(const std::string &list)
{
    int64_t here = 0, n = 0, total = 0;
    if (hn_hostlist_tasks(list.c_str(), 0, &here, &n, &total) != HN_OK) return;
    if (n < 1 || n > HN_HOSTLIST_MAX || here < 0 || here > total) std::abort();
    if (hn_hostlist_tasks(list.c_str(), n - 1, &here, &n, &total) != HN_OK) std::abort();
    if (hn_hostlist_tasks(list.c_str(), n, &here, &n, &total) == HN_OK) std::abort();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const std::string text(reinterpret_cast<const char *>(data), size);
    hosts(text);
    tasks(text);
    return 0;
}
