/* The classifier as a job of the engine: it learns, repeats, resumes, leaves padding out, and
 * trains what a method chooses. */
#include "classifier_test.h"
#include "runtime/train/state.h"

namespace {

const char *const kModels[] = {"mnist-cnn", "resnet20", "separable-cifar", "vit-tiny-cifar"};

class ClassifierModel : public ::testing::TestWithParam<const char *> {
  protected:
    const hn_vision_config c = small_model(GetParam());
    const StripedImages images{c, 64, 1};
    bool normalises() const { return hn_vision_has_batch_norm(&c); }
};

std::string name_of(const ::testing::TestParamInfo<const char *> &i)
{
    return std::string(i.param).substr(0, std::string(i.param).find('-'));
}

/* Through loader and feed, as a run has them. */
class Fed {
  public:
    hn_image_loader *loader = nullptr;
    hn_feed *feed = nullptr;
    Fed(const StripedImages &s, const Classifier &m, bool stream, bool once = false)
    {
        hn_image_loader_options o = {};
        o.batch = m.co.batch;
        o.seed = 3;
        o.shuffle = !once;
        o.once = once;
        o.resident_bytes = stream ? 0 : 1 << 20;
        EXPECT_HN_OK(hn_image_loader_open(s.set, nullptr, &o, &loader));
        EXPECT_HN_OK(hn_image_feed_new(loader, &m.job, &feed));
    }
    ~Fed()
    {
        hn_feed_free(feed);
        hn_image_loader_free(loader);
    }
    Fed(const Fed &) = delete;
};

hn_step_report fed_step(const Classifier &m, const Fed &f, int64_t number)
{
    hn_engine_input in;
    hn_step_report r = {};
    int64_t units = 0;
    EXPECT_HN_OK(hn_engine_begin(m.e, number));
    EXPECT_HN_OK(hn_engine_batch(m.e, &in));
    EXPECT_HN_OK(f.feed->fill(f.feed, number, &in, &units));
    EXPECT_EQ(units, m.co.batch);
    EXPECT_HN_OK(hn_engine_micro(m.e, 0));
    EXPECT_HN_OK(hn_engine_update(m.e, 1e-2, &r));
    EXPECT_EQ(r.tokens, m.co.batch);
    return r;
}

hn_eval_sums fed_evaluation(const Classifier &m, const Fed &f)
{
    hn_engine_input in;
    hn_eval_sums sums = {};
    int64_t units = 0;
    EXPECT_HN_OK(hn_engine_eval_begin(m.e));
    for (int64_t k = 0; k < hn_feed_batches(f.feed); k++) {
        EXPECT_HN_OK(hn_engine_batch(m.e, &in));
        EXPECT_HN_OK(f.feed->fill(f.feed, k, &in, &units));
        EXPECT_HN_OK(hn_engine_eval_batch(m.e));
    }
    EXPECT_HN_OK(hn_engine_eval_sums(m.e, &sums));
    return sums;
}

/* ---- it learns, and repeats ---- */

TEST_P(ClassifierModel, LossFallsAndHitsRise)
{
    Classifier m(c, images, 16);
    m.co.stream_train = m.co.stream_eval = false;
    m.open();
    Fed train(images, m, false), eval(images, m, false, true);
    const hn_eval_sums before = fed_evaluation(m, eval);
    double first = 0, last = 0;
    for (int64_t k = 0; k < 20; k++) {
        const double loss = fed_step(m, train, k).loss;
        if (k < 3) first += loss;
        if (k >= 17) last += loss;
    }
    const hn_eval_sums after = fed_evaluation(m, eval);
    EXPECT_EQ(before.rows, 64);
    EXPECT_EQ(after.rows, 64);
    EXPECT_LT(last, 0.8 * first);
    EXPECT_LT(after.loss, before.loss);
    EXPECT_GT(after.hits, before.hits + 8);
    EXPECT_GE(after.hits, 28); /* chance: 16 */
}

/* Three steps with everything that is random, on so many threads. */
std::vector<float> three_steps(const hn_vision_config &c, const StripedImages &images, int threads,
                               bool stream, uint64_t seed = 5)
{
    Classifier m(c, images);
    omp_set_num_threads(threads);
    m.co.stream_train = m.co.stream_eval = stream;
    m.co.augment.pad = 2;
    m.co.augment.flip = 0.5f;
    m.o.seed = seed;
    m.open();
    Fed train(images, m, stream);
    for (int64_t k = 0; k < 3; k++) fed_step(m, train, k);
    return m.everything();
}

TEST_P(ClassifierModel, SameBitsTwiceOnAnyThreadsResidentAndStreamed)
{
    const auto want = three_steps(c, images, 1, false);
    EXPECT_TRUE(same_bits(three_steps(c, images, 1, false), want));
    EXPECT_TRUE(same_bits(three_steps(c, images, 2, false), want));
    EXPECT_TRUE(same_bits(three_steps(c, images, 2, true), want));
    EXPECT_FALSE(same_bits(three_steps(c, images, 1, false, 6), want)); /* crops and flips */
}

/* What is read ahead is what fill gives. */
TEST(ClassifierFeed, ReadsAheadTheSameBatches)
{
    const hn_vision_config c = small_model("mnist-cnn");
    const StripedImages images(c, 21, 1);
    for (const bool stream : {false, true}) {
        Classifier m(c, images);
        m.co.stream_train = m.co.stream_eval = stream;
        m.open();
        Fed f(images, m, stream);
        const size_t bytes = stream ? (size_t)(8 * 144) : 0;
        std::vector<int32_t> index(16), label(16);
        std::vector<uint8_t> pixel(2 * bytes);
        const hn_engine_input want = {{&index[0], &label[0], pixel.data()}};
        const hn_engine_input got = {{&index[8], &label[8], pixel.data() + bytes}};
        ASSERT_HN_OK(f.feed->start(f.feed, 2));
        for (int64_t k = 2, units = 0; k < 6; k++) {
            ASSERT_HN_OK(f.feed->fill(f.feed, k, &want, &units));
            ASSERT_HN_OK(f.feed->next(f.feed, &got));
            EXPECT_TRUE(std::equal(index.begin(), index.begin() + 8, index.begin() + 8));
            EXPECT_TRUE(std::equal(label.begin(), label.begin() + 8, label.begin() + 8));
            const auto half = pixel.begin() + (std::ptrdiff_t)bytes;
            EXPECT_TRUE(std::equal(pixel.begin(), half, half));
        }
    }
}

/* ---- padding ---- */

/* Five images in a batch of eight, and alone in one of five. Batch norm by the running values: by
 * the batch it would see the padding. */
TEST_P(ClassifierModel, PaddingAddsNothing)
{
    Classifier padded(c, images, 8), full(c, images, 5);
    for (Classifier *m : {&padded, &full}) {
        m->co.frozen_norm = true;
        m->open();
        m->accumulate(images, 3, 5);
    }
    EXPECT_LT(rel_l2(padded.gradients(), full.gradients()), 1e-6); /* sums in another order */
    EXPECT_EQ(padded.buffers(), full.buffers());
    hn_step_report a = {}, b = {};
    ASSERT_HN_OK(hn_engine_update(padded.e, 0, &a));
    ASSERT_HN_OK(hn_engine_update(full.e, 0, &b));
    EXPECT_EQ(a.tokens, 5);
    EXPECT_NEAR(a.loss, b.loss, 1e-6);
    /* 13 images in batches of 8 and of 5 */
    const hn_eval_sums x = padded.evaluate(images, 13), y = full.evaluate(images, 13);
    EXPECT_EQ(x.rows, 13);
    EXPECT_EQ(y.rows, 13);
    EXPECT_EQ(x.hits, y.hits);
    EXPECT_NEAR(x.loss, y.loss, 1e-5);
}

TEST_P(ClassifierModel, FeedsForTrainingDoNotPadWhereBatchNormWouldSeeIt)
{
    for (const bool frozen : {false, true}) {
        Classifier m(c, images);
        hn_image_loader *loader = nullptr;
        hn_feed *feed = nullptr;
        m.co.frozen_norm = frozen;
        m.open();
        hn_image_loader_options o = {};
        o.batch = 8;
        o.epoch_end = HN_EPOCH_PAD;
        ASSERT_HN_OK(hn_image_loader_open(images.set, nullptr, &o, &loader));
        if (normalises() && !frozen)
            EXPECT_HN_FAIL(hn_image_feed_new(loader, &m.job, &feed), HN_ERR_UNSUPPORTED,
                           "padding, which batch norm would count as images");
        else
            EXPECT_HN_OK(hn_image_feed_new(loader, &m.job, &feed));
        hn_feed_free(feed);
        hn_image_loader_free(loader);
    }
}

TEST(ClassifierFeed, RefusesWhatDoesNotFitTheJob)
{
    const hn_vision_config c = small_model("mnist-cnn"), more = small_model("mnist-cnn", 6);
    const StripedImages images(c, 16, 1), others(more, 16, 1);
    Classifier m(c, images);
    m.open();
    hn_feed *feed = nullptr;
    for (const int64_t batch : {8, 4}) {
        hn_image_loader *resident = nullptr, *wide = nullptr;
        hn_image_loader_options o = {};
        o.batch = batch;
        o.resident_bytes = 1 << 20;
        ASSERT_HN_OK(hn_image_loader_open(images.set, nullptr, &o, &resident));
        EXPECT_HN_FAIL(hn_image_feed_new(resident, &m.job, &feed), HN_ERR_ARG,
                       "the job of 8 with pixels");
        o.batch = 8;
        o.resident_bytes = 0;
        ASSERT_HN_OK(hn_image_loader_open(others.set, nullptr, &o, &wide));
        EXPECT_HN_FAIL(hn_image_feed_new(wide, &m.job, &feed), HN_ERR_SHAPE,
                       "mnist-cnn: 4 classes, the data have 6");
        hn_image_loader_free(resident);
        hn_image_loader_free(wide);
    }
    const hn_vision_config colour = small_model("resnet20");
    Classifier other(colour, images); /* grey images */
    hn_classifier_job_init(&other.job, &other.co);
    other.o.adapt = &other.adapt;
    other.o.job = &other.job.job;
    EXPECT_HN_FAIL(hn_engine_new(&other.o, &other.e), HN_ERR_SHAPE, "images of 1 channels");
}

/* ---- evaluation and outputs ---- */

TEST_P(ClassifierModel, EvaluationCountsWhatTheOutputsSay)
{
    Classifier m(c, images);
    m.co.probe_images = 5;
    m.open();
    for (int64_t k = 0; k < 3; k++) m.step(images, k, 8 * k, 8);
    int64_t hits = 0;
    double loss = 0;
    for (int64_t first = 0; first < 24; first += 4) { /* one row of the probe is padding */
        const auto z = m.logits(images, first, 4);
        for (int64_t i = 0; i < 4; i++) {
            const auto row = z.begin() + i * c.classes;
            const int32_t y = images.view()->label[first + i];
            double sum = 0;
            for (int64_t k = 0; k < c.classes; k++) sum += std::exp((double)row[k]);
            loss += std::log(sum) - (double)row[y];
            hits += std::max_element(row, row + c.classes) - row == y;
        }
    }
    const hn_eval_sums sums = m.evaluate(images, 24);
    EXPECT_EQ(sums.rows, 24);
    EXPECT_EQ(sums.hits, hits);
    EXPECT_NEAR(sums.loss, loss, 1e-4);
}

/* logits = features W^T + b; an image's do not depend on its neighbours. */
TEST_P(ClassifierModel, OutputsAreLogitsAndTheInputOfTheHead)
{
    Classifier m(c, images);
    m.co.probe_images = 3;
    m.open();
    const hn_tensor *logits = nullptr, *features = nullptr;
    ASSERT_HN_OK(hn_classifier_outputs(&m.job, m.e, images.pixels(4), 3, &logits, &features));
    const int64_t width = hn_vision_width(&c);
    ASSERT_EQ(hn_type_cols(&features->type), width);
    ASSERT_EQ(hn_type_rows(&features->type), 3);
    const auto z = Classifier::rows(logits, 3), f = Classifier::rows(features, 3);
    const std::string head = hn_vision_head(&c);
    const auto w = m.value(head + ".weight"), b = m.value(head + ".bias");
    for (size_t i = 0; i < 3; i++)
        for (size_t k = 0; k < (size_t)c.classes; k++) {
            double sum = b[k];
            for (size_t j = 0; j < (size_t)width; j++)
                sum += (double)f[i * (size_t)width + j] * (double)w[k * (size_t)width + j];
            EXPECT_NEAR(z[i * (size_t)c.classes + k], sum, 1e-5);
        }
    const auto one = m.logits(images, 5, 1);
    EXPECT_LT(max_abs(one, std::vector<float>(z.begin() + c.classes, z.begin() + 2 * c.classes)),
              1e-6);
    for (const int64_t n : {0, 4})
        EXPECT_HN_FAIL(hn_classifier_outputs(&m.job, m.e, images.pixels(0), n, &logits, &features),
                       HN_ERR_ARG, "the probe takes 1 to 3");
}

/* ---- running values ---- */

TEST_P(ClassifierModel, FrozenNormLeavesRunningValues)
{
    for (const bool frozen : {false, true}) {
        Classifier m(c, images);
        m.co.frozen_norm = frozen;
        m.open();
        const auto before = m.buffers();
        EXPECT_EQ(before.empty(), !normalises());
        m.step(images, 0, 0, 8);
        EXPECT_EQ(m.buffers() == before, frozen || !normalises());
        const auto moved = m.buffers();
        m.evaluate(images, 16);
        EXPECT_EQ(m.buffers(), moved); /* evaluation reads them */
    }
}

/* What a GPU does before the first step, and after plans were restored. */
TEST_P(ClassifierModel, AnEmptyRunChangesNothing)
{
    Classifier m(c, images);
    m.co.probe_images = 2;
    m.open();
    m.step(images, 0, 0, 8);
    const auto before = m.everything(), gradients = m.gradients();
    ASSERT_HN_OK(hn_engine_run_empty(m.e));
    EXPECT_TRUE(same_bits(m.everything(), before));
    EXPECT_TRUE(m.gradients() == gradients); /* zeros */
    if (!normalises()) return;
    ASSERT_HN_OK(hn_engine_begin(m.e, 1));
    hn_engine_input in;
    ASSERT_HN_OK(hn_engine_batch(m.e, &in));
    m.job.job.empty(&m.job.job, in.field);
    ASSERT_HN_OK(hn_engine_micro(m.e, 0)); /* the same batch moves them, if nobody puts them back */
    EXPECT_FALSE(same_bits(m.everything(), before));
}

/* ---- checkpoints ---- */

TEST_P(ClassifierModel, CheckpointsContinueBitForBit)
{
    const TempDir dir;
    const hn_run_identity id = {"full", "base", "b", "d", "t", "s", "yaml: 1\n"};
    std::vector<float> want;
    {
        Classifier m(c, images);
        hn_run_state s = {};
        ASSERT_HN_OK(hn_run_state_init(&s, 4));
        m.open();
        for (int64_t k = 0; k < 4; k++) {
            if (k == 2) {
                s.step = 2;
                ASSERT_HN_OK(hn_state_save(dir.str().c_str(), m.params(), &id, &s));
            }
            m.step(images, k, 8 * k, 8);
        }
        want = m.everything();
        hn_run_state_clear(&s);
    }
    Classifier m(c, images);
    hn_run_state s = {};
    m.open(77);
    ASSERT_HN_OK(hn_state_load((dir / "checkpoint-2").c_str(), m.params(), &id, 4, &s));
    EXPECT_EQ(s.step, 2);
    for (int64_t k = s.step; k < 4; k++) m.step(images, k, 8 * k, 8);
    EXPECT_TRUE(same_bits(m.everything(), want));
    hn_run_state_clear(&s);
}

/* ---- the loss ---- */

/* Mean over images of -log p with p over columns [first, first + n), labels smoothed. */
double hand_loss(const std::vector<float> &z, const StripedImages &s, int64_t images,
                 int64_t classes, int64_t first, int64_t n, double eps)
{
    double loss = 0;
    for (int64_t i = 0; i < images; i++) {
        const float *row = &z[(size_t)(i * classes + first)];
        const int32_t y = s.view()->label[i] - (int32_t)first;
        double sum = 0;
        for (int64_t k = 0; k < n; k++) sum += std::exp((double)row[k]);
        for (int64_t k = 0; k < n; k++)
            loss += ((k == y ? 1 - eps : 0) + eps / (double)n) * (std::log(sum) - (double)row[k]);
    }
    return loss / (double)images;
}

TEST(ClassifierLoss, SmoothingIsTrainingsOnly)
{
    const hn_vision_config c = small_model("mnist-cnn");
    const StripedImages images(c, 8, 1);
    Classifier m(c, images);
    m.co.probe_images = 8;
    m.co.smoothing = 0.3f;
    m.open();
    const auto z = m.logits(images, 0, 8);
    const hn_eval_sums eval = m.evaluate(images, 8);
    EXPECT_NEAR(eval.loss / 8, hand_loss(z, images, 8, 4, 0, 4, 0), 1e-6);
    EXPECT_NEAR(m.step(images, 0, 0, 8).loss, hand_loss(z, images, 8, 4, 0, 4, 0.3f), 1e-6);
}

/* Columns outside take no part, and rows of the head outside no gradient. */
TEST(ClassifierLoss, IsOfARangeOfClasses)
{
    const hn_vision_config part = small_model("mnist-cnn"), c = small_model("mnist-cnn", 7);
    const StripedImages images(part, 8, 1); /* labels 0 .. 3 */
    for (const int64_t n : {5, 0}) {        /* 0: all behind the first */
        Classifier m(c, images);
        m.co.probe_images = 8;
        m.co.n_classes = n;
        m.open();
        const auto z = m.logits(images, 0, 8);
        m.accumulate(images, 0, 8);
        const auto db = m.gradient("fc2.bias");
        for (size_t k = 0; k < db.size(); k++) EXPECT_EQ(db[k] == 0, n > 0 && k >= (size_t)n) << k;
        hn_step_report r = {};
        ASSERT_HN_OK(hn_engine_update(m.e, 0, &r));
        EXPECT_NEAR(r.loss, hand_loss(z, images, 8, 7, 0, n ? n : 7, 0), 1e-6);
    }
    Classifier m(c, images);
    m.co.first_class = 4;
    m.open();
    m.fill(images, 0, 8);
    if (hn_device_kind_of(m.device) == HN_DEVICE_CPU) { /* elsewhere the loss is NaN */
        EXPECT_NE(hn_engine_micro(m.e, 0), HN_OK);
        EXPECT_NE(std::strstr(hn_last_error(), "label"), nullptr) << hn_last_error();
    }
}

/* ---- learning without forgetting ---- */

constexpr hn_teaching kTeaching = {
    .weight = 0.7f, .temperature = 2, .first_class = 1, .n_classes = 3};

void copy_to_teacher(const Classifier &m, float noise)
{
    hn_params *t = hn_classifier_teacher(&m.job);
    ASSERT_NE(t, nullptr);
    ASSERT_EQ(hn_params_count(t), hn_params_count(m.params()));
    for (int64_t i = 0; i < hn_params_count(t); i++) {
        const hn_param *q = hn_params_at(t, i);
        EXPECT_FALSE(q->trained) << q->name;
        auto v = m.value(std::string(q->name));
        const auto d = normal_f32(v.size(), (unsigned)i, 0, noise);
        for (size_t k = 0; k < v.size() && !q->buffer; k++) v[k] += d[k];
        ASSERT_HN_OK(hn_param_set(q, v.data()));
    }
}

/* A teacher that says the same, of the same crops: nothing is added. */
TEST_P(ClassifierModel, ATeacherThatAgreesChangesNothing)
{
    std::vector<float> gradients[2];
    double loss[2] = {};
    for (int k = 0; k < 2; k++) {
        Classifier m(c, images);
        m.co.frozen_norm = true;
        m.co.augment.pad = 2;
        m.co.augment.flip = 0.5f;
        if (k == 1) m.co.distill = kTeaching;
        m.open();
        EXPECT_EQ(hn_classifier_teacher(&m.job) != nullptr, k == 1);
        if (k == 1) copy_to_teacher(m, 0);
        m.accumulate(images, 0, 8);
        gradients[k] = m.gradients();
        hn_step_report r = {};
        ASSERT_HN_OK(hn_engine_update(m.e, 0, &r));
        loss[k] = r.loss;
    }
    EXPECT_LT(rel_l2(gradients[1], gradients[0]), 1e-6);
    EXPECT_NEAR(loss[1], loss[0], 1e-6);
}

double reported_loss(const Classifier &m, const StripedImages &images)
{
    hn_step_report r = {};
    m.accumulate(images, 0, 6);
    EXPECT_HN_OK(hn_engine_update(m.e, 0, &r));
    return r.loss_sum;
}

/* Six images and two of padding. */
TEST(ClassifierTeacher, LossAndGradientAreThoseOfTheSum)
{
    const hn_vision_config c = small_model("mnist-cnn");
    const StripedImages images(c, 8, 1);
    Classifier m(c, images), teacher(c, images);
    m.co.distill = kTeaching;
    m.co.probe_images = teacher.co.probe_images = 6;
    m.open();
    teacher.open();
    copy_to_teacher(m, 0.1f);
    for (int64_t i = 0; i < hn_params_count(m.params()); i++) {
        const hn_param *q = hn_params_at(hn_classifier_teacher(&m.job), i);
        std::vector<float> v((size_t)hn_param_values(q));
        ASSERT_HN_OK(hn_param_get(q, v.data()));
        ASSERT_HN_OK(hn_param_set(hn_params_at(teacher.params(), i), v.data()));
    }
    const auto z = m.logits(images, 0, 6), taught = teacher.logits(images, 0, 6);
    double want = 6 * hand_loss(z, images, 6, 4, 0, 4, 0);
    const double t = (double)kTeaching.temperature;
    for (size_t i = 0; i < 6; i++) {
        double zs = 0, ts = 0;
        for (size_t k = 1; k < 4; k++) {
            zs += std::exp((double)z[4 * i + k] / t);
            ts += std::exp((double)taught[4 * i + k] / t);
        }
        for (size_t k = 1; k < 4; k++) {
            const double q = std::exp((double)taught[4 * i + k] / t) / ts;
            want += (double)kTeaching.weight * t * t * q *
                    (std::log(q) - (double)z[4 * i + k] / t + std::log(zs));
        }
    }
    m.accumulate(images, 0, 6);
    const auto gradients = m.gradients();
    EXPECT_NEAR(reported_loss(m, images), want, 2e-5); /* the sums of before are cleared */
    std::vector<double> got, differences;
    size_t at = 0;
    for (int64_t i = 0; i < hn_params_count(m.params()); i++) {
        const hn_param *q = hn_params_at(m.params(), i);
        auto v = m.value(q);
        for (size_t k = 0; k < v.size(); k += v.size() / 3) { /* three values of each */
            const float h = 2e-3f, old = v[k];
            v[k] = old + h;
            ASSERT_HN_OK(hn_param_set(q, v.data()));
            double difference = reported_loss(m, images);
            v[k] = old - h;
            ASSERT_HN_OK(hn_param_set(q, v.data()));
            difference -= reported_loss(m, images);
            v[k] = old;
            ASSERT_HN_OK(hn_param_set(q, v.data()));
            got.push_back((double)gradients[at + k]);
            differences.push_back(difference / (2 * (double)h));
        }
        at += v.size();
    }
    EXPECT_LT(rel_l2(got, differences), 2e-2); /* maxima of the first layer change hands */
}

TEST(ClassifierTeacher, WithoutWeightThereIsNone)
{
    const hn_vision_config c = small_model("resnet20");
    const StripedImages images(c, 8, 1);
    std::vector<float> all[2];
    for (int k = 0; k < 2; k++) {
        Classifier m(c, images);
        if (k == 1)
            m.co.distill = {.weight = 0, .temperature = 2, .first_class = 0, .n_classes = 2};
        m.open();
        EXPECT_EQ(hn_classifier_teacher(&m.job), nullptr);
        m.step(images, 0, 0, 8);
        all[k] = m.everything();
    }
    EXPECT_TRUE(same_bits(all[0], all[1]));
    Classifier m(c, images);
    m.co.distill.weight = -1;
    hn_classifier_job_init(&m.job, &m.co);
    m.o.adapt = &m.adapt;
    m.o.job = &m.job.job;
    EXPECT_HN_FAIL(hn_engine_new(&m.o, &m.e), HN_ERR_ARG, "distillation of weight -1");
}

/* The teacher stays as it is; the plan may be made more than once. */
TEST_P(ClassifierModel, TrainingLeavesTheTeacher)
{
    Classifier m(c, images);
    m.co.distill = kTeaching;
    m.o.recompute = HN_RECOMPUTE_AUTO;
    m.o.memory = 1; /* never fits: every plan is tried */
    hn_classifier_job_init(&m.job, &m.co);
    m.o.adapt = &m.adapt;
    m.o.job = &m.job.job;
    ASSERT_HN_OK(hn_engine_new(&m.o, &m.e));
    hn_engine_free(m.e);
    m.e = nullptr;
    m.o.memory = 0;
    m.o.recompute = HN_RECOMPUTE_ON;
    m.open();
    copy_to_teacher(m, 0.1f);
    const auto held = [&] {
        std::vector<float> all;
        const hn_params *t = hn_classifier_teacher(&m.job);
        for (int64_t i = 0; i < hn_params_count(t); i++) {
            const auto v = m.value(hn_params_at(t, i));
            all.insert(all.end(), v.begin(), v.end());
        }
        return all;
    };
    const auto before = held();
    for (int64_t k = 0; k < 3; k++) m.step(images, k, 8 * k, 8);
    EXPECT_TRUE(same_bits(held(), before));
}

/* ---- methods ---- */

hn_status rank_two(const void *, const char *, int64_t, int64_t, hn_lowrank *choice)
{
    *choice = {.rank = 2, .scale = 1.0f, .dropout = 0, .materialise = false};
    return HN_OK;
}

TEST_P(ClassifierModel, LowRankUpdatesTrainNothingElse)
{
    Classifier m(c, images, 16);
    m.adapt = {.parameter = nullptr, .linear = rank_two, .context = nullptr};
    m.co.frozen_norm = true;
    m.open();
    const auto base = [](const hn_param *q) { return !q->adapter; };
    const auto pairs = [](const hn_param *q) { return q->adapter; };
    const auto before = m.values(base), untrained = m.values(pairs);
    const auto first = m.evaluate(images, 64);
    for (int64_t k = 0; k < 40; k++) m.step(images, k, 16 * (k % 4), 16, 3e-2);
    EXPECT_TRUE(same_bits(m.values(base), before));
    EXPECT_LT(m.evaluate(images, 64).loss, 0.8 * first.loss);
    int64_t still = 0, n = 0;
    const auto trained = m.values(pairs);
    for (size_t i = 0; i < trained.size(); i++, n++) still += trained[i] == untrained[i];
    EXPECT_GT(n, 0);
    EXPECT_LT(still, n / 4); /* what a dead relu cuts off */
}

INSTANTIATE_TEST_SUITE_P(Models, ClassifierModel, ::testing::ValuesIn(kModels), name_of);

} // namespace
