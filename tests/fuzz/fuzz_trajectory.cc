/* Any bytes as a trajectory file: as they are, and as the records of a small file whose head and
 * sums a lucky forger got right. What counts then must be sound. */
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/base/label.h"
#include "runtime/flow/trajectory_impl.h"

static void check(bool ok)
{
    if (!ok) std::abort();
}

static void check_record(const hn_trajectories &t, int64_t i)
{
    hn_trajectory r;
    hn_trajectories_at(&t, i, &r);
    check(r.facts.unit > 0 && r.facts.images >= 1 && r.facts.images <= t.head.support);
    for (int64_t k = 0; k < t.head.support; k++)
        check(k < r.facts.images ? r.image[k] >= 0 && r.label[k] >= 0
                                 : r.image[k] == -1 && r.label[k] == HN_LABEL_IGNORED);
    for (int64_t k = 0; k < t.head.knots * t.head.numbers; k++)
        check(std::isfinite(hn_f16_to_f32(r.knot[k])));
}

static void open_bytes(const std::vector<uint8_t> &bytes)
{
    const int fd = memfd_create("trajectories", 0);
    check(fd >= 0 && write(fd, bytes.data(), bytes.size()) == (ssize_t)bytes.size());
    hn_trajectories t = {};
    if (hn_trajectories_open(("/proc/self/fd/" + std::to_string(fd)).c_str(), &t) == HN_OK) {
        check(t.n + t.damaged <= t.head.records);
        for (int64_t i = 0; i < t.n; i++) check_record(t, i);
        hn_trajectories_close(&t);
    } else {
        check(*hn_last_error() != '\0');
    }
    close(fd);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    open_bytes(std::vector<uint8_t>(data, data + size));
    if (size < 4) return 0;
    hn_trajectory_head head = {};
    head.records = data[0], head.knots = data[1], head.numbers = data[2], head.support = data[3];
    std::memset(head.layout, 'a', 64), std::memset(head.backbone, 'b', 64);
    std::strcpy(head.domains, "one,two");
    hn_trajectory_places p;
    if (hn_trajectory_places_of_(&head, &p) != HN_OK) return 0;
    const hn_trajectory_file_head f = hn_trajectory_pack_head_(&head);
    std::vector<uint8_t> bytes(HN_TRAJECTORY_HEAD_BYTES + (size_t)head.records * p.n_bytes);
    std::memcpy(bytes.data(), &f, sizeof f);
    const size_t body = bytes.size() - HN_TRAJECTORY_HEAD_BYTES;
    std::memcpy(bytes.data() + HN_TRAJECTORY_HEAD_BYTES, data + 4, std::min(size - 4, body));
    for (int64_t i = 0; i < head.records; i++) {
        uint8_t *const record = bytes.data() + hn_trajectory_at_(&p, i);
        const uint32_t crc = hn_trajectory_crc_(record, p.n_bytes, i, f.crc);
        std::memcpy(record, &crc, sizeof crc);
    }
    open_bytes(bytes);
    return 0;
}
