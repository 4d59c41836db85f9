/* drift_test.h - a small drift network on the device of HONE_TEST_DEVICE, with inputs from the
 * host. */
#ifndef HN_DRIFT_TEST_H
#define HN_DRIFT_TEST_H
#include <cmath>

#include "kernels/hyperflow/support_context.h"
#include "model_test.h"
#include "runtime/model/drift.h"

/* As in tests/golden/make_drift_golden.py. */
inline hn_drift_config small_drift()
{
    return {.tokens = 5,
            .token_width = 4,
            .features = 3,
            .width = 16,
            .blocks = 2,
            .heads = 2,
            .intermediate = 24,
            .queries = 4,
            .time = 8,
            .norm_eps = 1e-6};
}

/* What support_context.h says, in double. */
inline std::vector<float> contexts(const hn_drift_config &c, const std::vector<float> &f,
                                   const std::vector<int32_t> &label, int64_t tasks)
{
    const int64_t n = (int64_t)label.size() / tasks, d = c.features;
    const int64_t cols = hn_support_context_cols(d);
    std::vector<float> u((size_t)(tasks * n * cols));
    for (int64_t r = 0; r < tasks * n; r++) {
        if (label[(size_t)r] == HN_LABEL_IGNORED) continue;
        std::vector<double> sum((size_t)d);
        int64_t same = 0;
        for (int64_t s = r / n * n; s < r / n * n + n; s++) {
            if (label[(size_t)s] != label[(size_t)r]) continue;
            for (int64_t k = 0; k < d; k++) sum[(size_t)k] += (double)f[(size_t)(s * d + k)];
            same++;
        }
        for (int64_t k = 0; k < d; k++) {
            u[(size_t)(r * cols + k)] = f[(size_t)(r * d + k)];
            u[(size_t)(r * cols + d + k)] = (float)(sum[(size_t)k] / (double)same);
        }
        u[(size_t)(r * cols + 2 * d)] = (float)std::log((double)same);
    }
    return u;
}

/* A network on the device of HONE_TEST_DEVICE. */
class Drift : public ModelRun {
  public:
    const hn_drift_config c;
    const hn_drift_rows rows;
    hn_drift_tables tables = {};
    hn_tensor *context, *offsets, *sinusoids, *z, *dslope = nullptr, *slope = nullptr;
    hn_drift_task task = {};
    hn_graph *g = nullptr;

    Drift(const hn_drift_config &config, hn_drift_rows r, bool training, bool one_time = false)
        : ModelRun(training), c(config), rows(r)
    {
        EXPECT_HN_OK(hn_drift_declare(&c, params));
        create();
        EXPECT_HN_OK(hn_drift_tables_new(&c, program, HN_F32, &rows, &tables));
        const int64_t points = r.tasks * r.points;
        const hn_type type = hn_type_2d(HN_F32, points * c.tokens, c.token_width);
        context = input("context", hn_type_2d(HN_F32, r.tasks * r.support,
                                              hn_support_context_cols(c.features)));
        offsets = input("offsets", hn_type_1d(HN_I32, 2 * r.tasks + 1));
        sinusoids = input("times", hn_type_2d(HN_F32, one_time ? 1 : points, c.time));
        z = input("z", type);
        g = graph("slope", training);
        const hn_drift_build b = {
            .config = &c, .params = params, .tables = &tables, .attention = HN_ATTENTION_OWN};
        hn_tensor *time = nullptr;
        EXPECT_HN_OK(hn_drift_task_of(&b, g, context, offsets, &task));
        EXPECT_HN_OK(hn_drift_times(&b, g, sinusoids, &time));
        EXPECT_HN_OK(hn_drift_slope(&b, g, &task, z, time, &slope));
        hn_graph_keep(slope);
        if (training) {
            dslope = input("dslope", type);
            EXPECT_HN_OK(hn_graph_backward(g, 1, &slope, &dslope));
        }
        plan(64);
        EXPECT_HN_OK(hn_drift_tables_fill(&c, &tables));
    }
    /* times: one a point, or one. */
    void fill(const std::vector<float> &f, const std::vector<int32_t> &label,
              const std::vector<int32_t> &images, const std::vector<float> &points,
              const std::vector<float> &times)
    {
        std::vector<int32_t> at((size_t)(2 * rows.tasks + 1));
        std::vector<float> row((size_t)(c.time * (int64_t)times.size()));
        hn_drift_support_offsets(&rows, images.data(), at.data());
        for (size_t i = 0; i < times.size(); i++)
            hn_drift_time_row(&c, (double)times[i], &row[i * (size_t)c.time]);
        ASSERT_HN_OK(hn_tensor_set(context, contexts(c, f, label, rows.tasks).data()));
        ASSERT_HN_OK(hn_tensor_write(offsets, 0, at.data(), at.size() * sizeof at[0]));
        ASSERT_HN_OK(hn_tensor_set(sinusoids, row.data()));
        ASSERT_HN_OK(hn_tensor_set(z, points.data()));
    }
    std::vector<float> values(const hn_tensor *t) const
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        return v;
    }
    std::vector<float> slopes()
    {
        run(g);
        return values(slope);
    }
};

#endif
