/* classifier_test.h - small classifiers and images that can be learnt, for tests of the engine. */
#ifndef HN_CLASSIFIER_TEST_H
#define HN_CLASSIFIER_TEST_H
#include <omp.h>

#include <algorithm>

#include "engine_test.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/classifier_job.h"
#include "runtime/train/image_feed.h"

template <class... T>
void set_sizes(int64_t *to, T... v)
{
    const int64_t from[] = {(int64_t)v...};
    std::copy(std::begin(from), std::end(from), to);
}

/* Architectures of the names, narrow and short, on images of 8 x 8 (cnn: 12 x 12). */
inline hn_vision_config small_model(const std::string &name, int64_t classes = 4)
{
    const int64_t image = name == "mnist-cnn" ? 12 : 8;
    const hn_vision_override o = {.image = image, .channels = 0, .classes = classes};
    hn_vision_config c = {};
    if (name == "mnist-cnn") { /* its two kernels of 5 want more than 12 pixels */
        const hn_vision_override as_is = {.image = 0, .channels = 0, .classes = classes};
        EXPECT_HN_OK(hn_vision_config_named(name.c_str(), &as_is, &c));
        c.image = image;
        c.cnn.kernel = 3, c.cnn.pad = 1, c.cnn.hidden = 12;
        set_sizes(c.cnn.width, 4, 8);
        return c;
    }
    EXPECT_HN_OK(hn_vision_config_named(name.c_str(), &o, &c));
    if (name == "resnet20") {
        c.resnet.stem = 4;
        set_sizes(c.resnet.depth, 1, 1, 1);
        set_sizes(c.resnet.width, 4, 8, 12);
    } else if (name == "separable-cifar") {
        c.separable.stem = 6;
        c.separable.steps = 3;
        set_sizes(c.separable.width, 8, 10, 12);
        set_sizes(c.separable.stride, 1, 2, 1);
    } else {
        c.vit.hidden = 16;
        c.vit.layers = c.vit.heads = 2;
        c.vit.intermediate = 24;
    }
    return c;
}

/* Class k has bright stripes where (row + column) mod classes = k, in noise. */
class StripedImages {
  public:
    hn_image_set *set = nullptr;
    StripedImages(const hn_vision_config &c, int64_t n, unsigned seed)
    {
        std::mt19937 rng(seed);
        std::vector<uint8_t> pixel((size_t)(n * c.image * c.image * c.channels));
        std::vector<int32_t> label((size_t)n);
        for (int64_t i = 0, at = 0; i < n; i++) {
            label[(size_t)i] = (int32_t)(i * 7 % c.classes);
            for (int64_t y = 0; y < c.image; y++)
                for (int64_t x = 0; x < c.image; x++)
                    for (int64_t k = 0; k < c.channels; k++, at++)
                        pixel[(size_t)at] =
                            (uint8_t)((x + y) % c.classes == label[(size_t)i] ? 180 + rng() % 60
                                                                              : 20 + rng() % 100);
        }
        hn_images v = {};
        v.count = n, v.h = v.w = c.image, v.c = (int)c.channels;
        v.pixel = pixel.data(), v.label = label.data(), v.n_classes = (int32_t)c.classes;
        EXPECT_HN_OK(hn_image_set_make(&v, "stripes", &set));
    }
    ~StripedImages() { hn_image_set_free(set); }
    StripedImages(const StripedImages &) = delete;
    const hn_images *view() const { return hn_image_set_view(set); }
    const uint8_t *pixels(int64_t i) const
    {
        return view()->pixel + i * view()->h * view()->w * view()->c;
    }
};

inline hn_adapt_kind every_parameter(const void *, const char *) { return HN_ADAPT_FULL; }

/* A classifier with its engine, on the device of HONE_TEST_DEVICE. Set options, then open(). */
class Classifier {
  public:
    hn_vision_config c;
    hn_device *device = nullptr;
    hn_adapt adapt = {.parameter = every_parameter, .linear = nullptr, .context = nullptr};
    hn_engine_options o = {};
    hn_classifier_options co = {};
    hn_classifier_job job = {};
    hn_engine *e = nullptr;

    Classifier(const hn_vision_config &config, const StripedImages &images, int64_t batch = 8)
        : c(config)
    {
        omp_set_num_threads(1); /* networks of this size only wait for a second one */
        EXPECT_HN_OK(hn_device_open(test_device(), &device));
        o.device = device;
        o.executor = test_executor();
        o.dtype = co.dtype = HN_F32;
        o.train = o.eval = true;
        o.optimizer.kind = HN_OPTIMIZER_ADAMW;
        o.optimizer.beta1 = 0.9, o.optimizer.beta2 = 0.999, o.optimizer.eps = 1e-8;
        co.config = &c;
        co.batch = batch;
        co.train = co.eval = images.view();
        co.stream_train = co.stream_eval = true;
    }
    ~Classifier()
    {
        hn_engine_free(e);
        hn_device_close(device);
    }
    Classifier(const Classifier &) = delete;
    void open(uint64_t seed = 5)
    {
        hn_classifier_job_init(&job, &co);
        o.adapt = &adapt;
        o.job = &job.job;
        ASSERT_HN_OK(hn_engine_new(&o, &e));
        ASSERT_HN_OK(hn_engine_allocate(e));
        for (int64_t i = 0; i < hn_params_count(params()); i++)
            ASSERT_HN_OK(hn_param_init(hn_params_at(params(), i), seed));
    }
    hn_params *params() const { return hn_engine_params(e); }
    std::vector<float> value(const hn_param *q) const
    {
        std::vector<float> v((size_t)hn_param_values(q));
        EXPECT_HN_OK(hn_param_get(q, v.data()));
        return v;
    }
    std::vector<float> value(const std::string &name) const
    {
        const hn_param *q = hn_params_find(params(), name.c_str());
        EXPECT_NE(q, nullptr) << name;
        return q ? value(q) : std::vector<float>();
    }
    std::vector<float> gradient(const std::string &name) const
    {
        const hn_param *q = hn_params_find(params(), name.c_str());
        EXPECT_NE(q, nullptr) << name;
        std::vector<float> v(q ? (size_t)hn_param_values(q) : 0);
        if (q != nullptr) {
            EXPECT_HN_OK(hn_param_read(q, q->grad, v.data()));
        }
        return v;
    }
    /* Everything, or what `pick` takes. */
    template <class Pick>
    std::vector<float> values(Pick pick) const
    {
        std::vector<float> all;
        for (int64_t i = 0; i < hn_params_count(params()); i++) {
            const hn_param *q = hn_params_at(params(), i);
            if (!pick(q)) continue;
            const auto v = value(q);
            all.insert(all.end(), v.begin(), v.end());
        }
        return all;
    }
    std::vector<float> everything() const
    {
        return values([](const hn_param *) { return true; });
    }
    std::vector<float> buffers() const
    {
        return values([](const hn_param *q) { return q->buffer; });
    }
    std::vector<float> gradients() const
    {
        std::vector<float> all;
        for (int64_t i = 0; i < hn_params_count(params()); i++) {
            const hn_param *q = hn_params_at(params(), i);
            if (!q->trained) continue;
            const auto v = gradient(q->name);
            all.insert(all.end(), v.begin(), v.end());
        }
        return all;
    }
    /* A streamed micro-batch of images first .. first+n-1, the rest padding. */
    void fill(const StripedImages &s, int64_t first, int64_t n) const
    {
        hn_engine_input in;
        ASSERT_HN_OK(hn_engine_batch(e, &in));
        const hn_classifier_batch b = hn_classifier_batch_of(&job, &in);
        const size_t bytes = (size_t)(c.image * c.image * c.channels);
        job.job.empty(&job.job, in.field);
        for (int64_t i = 0; i < n; i++) {
            b.index[i] = (int32_t)i;
            b.label[i] = s.view()->label[first + i];
            std::memcpy(b.pixel + (size_t)i * bytes, s.pixels(first + i), bytes);
        }
    }
    /* The gradients of one micro-batch, without an update. */
    void accumulate(const StripedImages &s, int64_t first, int64_t n, int64_t step = 0) const
    {
        ASSERT_HN_OK(hn_engine_begin(e, step));
        fill(s, first, n);
        ASSERT_HN_OK(hn_engine_micro(e, 0));
    }
    hn_step_report step(const StripedImages &s, int64_t number, int64_t first, int64_t n,
                        double lr = 1e-2) const
    {
        hn_step_report r = {};
        accumulate(s, first, n, number);
        EXPECT_HN_OK(hn_engine_update(e, lr, &r));
        return r;
    }
    hn_eval_sums evaluate(const StripedImages &s, int64_t n) const
    {
        hn_eval_sums sums = {};
        EXPECT_HN_OK(hn_engine_eval_begin(e));
        for (int64_t first = 0; first < n; first += co.batch) {
            fill(s, first, std::min(co.batch, n - first));
            EXPECT_HN_OK(hn_engine_eval_batch(e));
        }
        EXPECT_HN_OK(hn_engine_eval_sums(e, &sums));
        return sums;
    }
    static std::vector<float> rows(const hn_tensor *t, int64_t n)
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        v.resize((size_t)(n * hn_type_cols(&t->type)));
        return v;
    }
    std::vector<float> logits(const StripedImages &s, int64_t first, int64_t n) const
    {
        const hn_tensor *t = nullptr;
        EXPECT_HN_OK(hn_classifier_outputs(&job, e, s.pixels(first), n, &t, nullptr));
        return t ? rows(t, n) : std::vector<float>();
    }
};

#endif
