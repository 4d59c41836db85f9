/* drift_lines_test.h - tasks whose trajectories are straight lines, for a small drift network to
 * learn. */
#ifndef HN_DRIFT_LINES_TEST_H
#define HN_DRIFT_LINES_TEST_H
#include <csignal>

#include "drift_test.h"
#include "runtime/base/convert.h"
#include "runtime/train/drift_train.h"

constexpr int64_t kKnots = 3, kSupport = 6;

/* Tasks of two or three classes of random features; trajectories run straight from a start (none,
 * then noisy ones) to a place that the mean of the support set decides. */
struct Lines {
    const hn_drift_config c;
    const int64_t tasks, inits;
    std::vector<float> features, unit, sigma;
    std::vector<std::vector<hn_f16>> knot;
    std::vector<const hn_f16 *> at;
    std::vector<int64_t> first;
    std::vector<int32_t> images, row, label;
    std::vector<std::vector<float>> end; /* theta_K - theta_0 of a task */
    hn_drift_data d = {};
    hn_drift_facts facts = {};

    Lines(int64_t n_tasks, int64_t n_inits, const hn_drift_config &config = small_drift())
        : c(config), tasks(n_tasks), inits(n_inits)
    {
        const int64_t numbers = c.tokens * c.token_width;
        std::mt19937 rng(5);
        std::normal_distribution<float> normal;
        std::vector<float> map((size_t)(numbers * c.features));
        for (float &v : map) v = normal(rng);
        first.push_back(0);
        for (int64_t e = 0; e < tasks; e++) {
            const int64_t n = kSupport - e % 3;
            std::vector<float> mean((size_t)c.features);
            for (int64_t i = 0; i < kSupport; i++) {
                row.push_back(i < n ? (int32_t)(features.size() / (size_t)c.features) : 0);
                label.push_back(i < n ? (int32_t)(i % 2) : HN_LABEL_IGNORED);
                for (int64_t k = 0; i < n && k < c.features; k++) {
                    features.push_back(normal(rng));
                    mean[(size_t)k] += features.back() / (float)n;
                }
            }
            images.push_back((int32_t)n);
            end.emplace_back((size_t)numbers);
            for (int64_t j = 0; j < numbers; j++)
                for (int64_t k = 0; k < c.features; k++)
                    end.back()[(size_t)j] +=
                        0.01f * map[(size_t)(j * c.features + k)] * mean[(size_t)k];
            for (int64_t i = 0; i < inits; i++) {
                std::vector<float> line;
                for (int64_t k = 0; k < kKnots; k++)
                    for (int64_t j = 0; j < numbers; j++) {
                        const float t = (float)k / (float)(kKnots - 1);
                        const float from = i == 0 ? 0 : 0.001f * normal(rng);
                        line.push_back((from * (1 - t) + end.back()[(size_t)j] * t) / 0.001f);
                    }
                knot.emplace_back(line.size());
                hn_from_f32(line.data(), (int64_t)line.size(), knot.back().data(), HN_F16, 0);
                unit.push_back(0.001f);
            }
            first.push_back((int64_t)knot.size());
        }
        for (const auto &k : knot) at.push_back(k.data());
        d.n = (int64_t)knot.size(), d.knots = kKnots, d.tasks = tasks, d.support = kSupport;
        d.knot = at.data(), d.unit = unit.data(), d.first = first.data();
        d.images = images.data(), d.row = row.data(), d.label = label.data();
        sigma.assign((size_t)c.tokens, 0.01f);
        facts.config = c, facts.sigma = sigma.data();
        std::strcpy(facts.layout, "layout");
        std::strcpy(facts.backbone, "backbone");
        std::strcpy(facts.encoder, "encoder");
    }
    Lines(const Lines &) = delete;
    int64_t feature_rows() const { return (int64_t)features.size() / c.features; }
    /* Support features of a task. */
    const float *of(int64_t e) const
    {
        return &features[(size_t)(row[(size_t)(e * kSupport)] * (int32_t)c.features)];
    }
};

/* A file to write progress to; the line that has `word` in it is a SIGTERM. */
inline FILE *signalling(const char *word)
{
    cookie_io_functions_t io = {};
    io.write = [](void *cookie, const char *text, size_t n) -> ssize_t {
        if (std::string(text, n).find((const char *)cookie) != std::string::npos) raise(SIGTERM);
        return (ssize_t)n;
    };
    FILE *const file = fopencookie((void *)word, "w", io);
    setvbuf(file, nullptr, _IOLBF, 0);
    return file;
}

#endif
