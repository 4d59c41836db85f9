/* The C API of a client: its messages are those of hone-fedref's server and simulation. */
#include "fedref_test.h"
#include "runtime/data/partition.h"
#include "runtime/fed/server.h"
#include "runtime/train/fed_setup.h"
#include "runtime/train/hone_client.h"

namespace {

constexpr int kClients = 4;

/* A server of fedavg over the model of the options that tests use, and a folder of images for each
 * client, as hone-fedref parts them. */
class HoneClient : public ::testing::Test {
  protected:
    const FedPlace w;
    hn_fed_layout layout = {};
    hn_fed_server *server = nullptr;
    hn_fed_server_options method = hn_fed_server_defaults(HN_FED_FEDAVG);
    std::string ids; /* of blocks, of a payload of them */

    HoneClient()
    {
        const ImageSets all(w / "data");
        hn_partition p = {};
        const hn_partition_options o = {.rule = HN_PARTITION_IID, .clients = kClients};
        const hn_images *v = hn_image_set_view(all.train);
        EXPECT_HN_OK(hn_partition_make(&o, v->label, nullptr, v->count, &p));
        for (int k = 0; k < kClients; k++) write_client(v, p, k);
        hn_partition_free(&p);
        open_server();
    }
    ~HoneClient() override
    {
        hn_fed_server_free(server);
        hn_fed_layout_free(&layout);
    }
    std::string folder(int k) const { return w / ("client-" + std::to_string(k)); }
    void write_client(const hn_images *v, const hn_partition &p, int k) const
    {
        std::string pixel;
        std::vector<int> label;
        for (int64_t i = p.first[k]; i < p.first[k + 1]; i++) {
            pixel.append((const char *)v->pixel + p.index[i] * 256, 256);
            label.push_back(v->label[p.index[i]]);
        }
        std::filesystem::create_directory(folder(k));
        write_file(folder(k) + "/train-images-idx3-ubyte",
                   idx(8, {(uint32_t)label.size(), 16, 16}, pixel));
        write_file(folder(k) + "/train-labels-idx1-ubyte", idx_labels(label));
        for (const char *name : {"/t10k-images-idx3-ubyte", "/t10k-labels-idx1-ubyte"})
            std::filesystem::copy_file(w / ("data" + std::string(name)), folder(k) + name);
    }
    std::string config(int k, const std::string &more = "") const
    {
        return "model=mnist-cnn\nimage-size=16\nclasses=6\ndata=" + folder(k) +
               "\nbatch-size=4\nlr=0.1\ndevice=" + test_device() + "\n" + more;
    }
    /* The layout, and the model before round 1, as a client has them. */
    void open_server(const char *payload = "full")
    {
        hn_fed_config c = {};
        hn_fed_setup s = {};
        hn_fed_client *client = nullptr;
        const std::string data = folder(0);
        c.model = "mnist-cnn", c.image_size = 16, c.classes = 6, c.data = data.c_str();
        c.weights = c.eval_data = "", c.dtype = c.data_kind = "auto", c.augment = "none";
        c.payload = payload, c.optimizer = "sgd", c.epoch_end = "part", c.executor = "auto";
        c.device = test_device();
        c.batch_size = 4, c.eval_batch = 4;
        c.lora_rank = 8, c.lora_alpha = 16, c.lora_targets.joined = "all-linear";
        c.sparse_block = "auto", c.sparse_budget = "lora:8", c.sparse_score = "magnitude";
        c.sparse_targets.joined = "all-linear";
        ASSERT_HN_OK(hn_fed_setup_open(&c, nullptr, &s));
        ASSERT_HN_OK(hn_fed_setup_choose(&s));
        hn_fed_bytes b = {};
        ASSERT_HN_OK(hn_fed_support_encode(&s.support, &b));
        ids.assign((const char *)b.data, b.n);
        hn_fed_bytes_free(&b);
        ASSERT_HN_OK(hn_fed_setup_evaluator(&s, &client));
        ASSERT_HN_OK(hn_fed_setup_layout(&s, client, &layout));
        std::vector<float> start((size_t)layout.n);
        ASSERT_HN_OK(hn_fed_client_get(client, start.data()));
        ASSERT_HN_OK(hn_fed_server_new(&layout, &method, start.data(), &server));
        hn_fed_client_free(client);
        hn_fed_setup_close(&s);
    }
    std::string model_message(int64_t round) const
    {
        hn_fed_bytes b = {};
        EXPECT_HN_OK(
            hn_fed_encode_model(&layout, round, hn_fed_server_values(server), HN_FED_F32, &b));
        const std::string s((const char *)b.data, b.n);
        hn_fed_bytes_free(&b);
        return s;
    }
    /* One round over all updates, which are given as messages. */
    void aggregate(int64_t round, const std::vector<std::string> &updates)
    {
        std::vector<std::vector<float>> value;
        ASSERT_HN_OK(hn_fed_server_begin(server, round));
        for (const auto &u : updates) {
            hn_fed_head head;
            value.emplace_back((size_t)layout.n);
            ASSERT_HN_OK(hn_fed_decode(&layout, u.data(), u.size(), HN_FED_UPDATE, round,
                                       hn_fed_server_values(server), &head, value.back().data(),
                                       nullptr));
            const hn_fed_update one = {.client = head.client,
                                       .round = head.round,
                                       .samples = head.samples,
                                       .loss = head.loss,
                                       .value = value.back().data()};
            ASSERT_HN_OK(hn_fed_server_add(server, &one));
        }
        ASSERT_HN_OK(hn_fed_server_finish(server, nullptr));
    }
    std::vector<float> values() const
    {
        return {hn_fed_server_values(server), hn_fed_server_values(server) + layout.n};
    }
};

/* Closes itself. */
struct Loaded {
    hone_client *c = nullptr;
    int code;
    explicit Loaded(const std::string &config, int64_t client = 0)
    {
        const hone_client_options o = {.size = sizeof o,
                                       .client = client,
                                       .config = config.c_str(),
                                       .log = nullptr,
                                       .context = nullptr};
        code = hone_client_load(&o, &c);
    }
    ~Loaded() { hone_client_free(c); }
    Loaded(const Loaded &) = delete;
    std::string update() const
    {
        const void *message = nullptr;
        size_t n = 0;
        EXPECT_EQ(hone_client_get_payload(c, &message, &n), HONE_OK) << hone_last_error();
        return {(const char *)message, n};
    }
};

#define EXPECT_BAD(call, part)                                        \
    do {                                                              \
        EXPECT_EQ((call), HONE_BAD_INPUT);                            \
        EXPECT_NE(std::strstr(hone_last_error(), (part)), nullptr)    \
            << "'" << (part) << "' is not in: " << hone_last_error(); \
    } while (0)

/* Programs in C that know hone_client.h only, on images of their own, against the simulation. */
TEST_F(HoneClient, ClientsInCMakeTheModelOfTheSimulation)
{
    const auto start = values();
    for (int64_t round = 1; round <= 2; round++) {
        std::vector<std::string> updates;
        write_file(w / "model", model_message(round));
        for (int k = 0; k < kClients; k++) {
            write_file(w / "config", config(k));
            const Ran r = w.run(
                {"hone_client_user", std::to_string(k), w / "config", w / "model", w / "update"});
            ASSERT_EQ(r.code, 0) << r.err;
            EXPECT_TRUE(contains(r.out, "24 images, 6 steps")) << r.out;
            updates.push_back(read_file(w / "update"));
        }
        aggregate(round, {updates[2], updates[0], updates[3], updates[1]});
    }
    Words run = w.cnn("train", "2") + Words{"--method", "fedavg", "--classes", "6"};
    run[(size_t)(std::find(run.begin(), run.end(), "--clients") - run.begin()) + 1] = "4";
    expect_done(w.run(run + w.to("run")));
    hn_fed_server *simulated = nullptr;
    ASSERT_HN_OK(
        hn_fed_server_load(&layout, &method, (w / "run/checkpoint-2").c_str(), &simulated));
    EXPECT_FALSE(same_bits(values(), start));
    EXPECT_TRUE(same_bits(
        values(), {hn_fed_server_values(simulated), hn_fed_server_values(simulated) + layout.n}));
    hn_fed_server_free(simulated);
}

TEST_F(HoneClient, ARoundIsInOrder)
{
    const Loaded a(config(1), 1);
    ASSERT_EQ(a.code, HONE_OK) << hone_last_error();
    EXPECT_STREQ(hone_version(), "0.1.0");
    EXPECT_EQ(hone_client_images(a.c), 24);
    EXPECT_EQ(hone_client_values(a.c), layout.n);
    EXPECT_EQ(hone_client_round(a.c), -1);
    const std::string one = model_message(1), two = model_message(2);
    const void *message;
    size_t n;
    EXPECT_BAD(hone_client_train_round(a.c, nullptr, nullptr), "no model of a round");
    ASSERT_EQ(hone_client_set_payload(a.c, one.data(), one.size()), HONE_OK) << hone_last_error();
    EXPECT_BAD(hone_client_get_payload(a.c, &message, &n), "nothing was trained");
    hone_scores before = {.size = sizeof before}, after = before;
    ASSERT_EQ(hone_client_evaluate(a.c, &before), HONE_OK);
    EXPECT_EQ(before.images, 48);
    const hone_training two_steps = {.size = sizeof two_steps, .steps = 2};
    hone_trained t = {.size = sizeof t};
    ASSERT_EQ(hone_client_train_round(a.c, &two_steps, &t), HONE_OK) << hone_last_error();
    EXPECT_EQ(t.steps, 2);
    EXPECT_GT(t.loss, 0.5);
    ASSERT_EQ(hone_client_evaluate(a.c, &after), HONE_OK);
    EXPECT_NE(before.loss, after.loss);
    EXPECT_BAD(hone_client_train_round(a.c, nullptr, nullptr), "has been trained");
    const std::string update = a.update();
    EXPECT_TRUE(update == a.update());
    EXPECT_EQ((int64_t)update.size(), hn_fed_message_bytes(&layout, HN_FED_F32, 0, false));
    EXPECT_BAD(hone_client_set_payload(a.c, one.data(), one.size()), "round 1");
    ASSERT_EQ(hone_client_set_payload(a.c, two.data(), two.size()), HONE_OK);
    EXPECT_EQ(hone_client_round(a.c), 2);
}

TEST_F(HoneClient, WhatWasNotSentGoesIntoTheNextMessage)
{
    const std::string topk = "encoding=topk\ntopk=0.02\n";
    const Loaded keeps(config(0, topk)), forgets(config(0, topk + "feedback=off\n"));
    for (int64_t round = 1; round <= 2; round++) {
        const std::string m = model_message(round);
        for (const Loaded *l : {&keeps, &forgets}) {
            ASSERT_EQ(hone_client_set_payload(l->c, m.data(), m.size()), HONE_OK);
            ASSERT_EQ(hone_client_train_round(l->c, nullptr, nullptr), HONE_OK);
        }
        EXPECT_EQ(keeps.update() == forgets.update(), round == 1);
    }
}

/* Heads and pairs of one shape fit on any body; the server's is that of seed 0. */
TEST_F(HoneClient, ABaseOrScaleThatIsNotTheServersIsRefused)
{
    struct Case {
        std::string payload, same, other, part;
    };
    const std::vector<Case> cases = {
        {"head", "lr=0.2\n", "seed=1\n", "base"},
        {"lora", "lora-alpha=16\n", "seed=1\n", "base"},
        {"lora", "lr=0.2\n", "lora-alpha=8\n", "lora scale"},
        {"full", "seed=1\n", "", ""},
    };
    for (const Case &k : cases) {
        hn_fed_layout_free(&layout);
        hn_fed_server_free(server);
        server = nullptr;
        open_server(k.payload.c_str());
        const std::string m = model_message(1), payload = "payload=" + k.payload + "\n";
        const Loaded same(config(0, payload + k.same));
        ASSERT_EQ(same.code, HONE_OK) << hone_last_error();
        EXPECT_EQ(hone_client_set_payload(same.c, m.data(), m.size()), HONE_OK)
            << k.payload << ": " << hone_last_error();
        if (k.other.empty()) continue;
        const Loaded other(config(0, payload + k.other));
        ASSERT_EQ(other.code, HONE_OK) << hone_last_error();
        EXPECT_BAD(hone_client_set_payload(other.c, m.data(), m.size()), k.part.c_str());
    }
}

const std::string kBlocks = "payload=sparse\noptimizer=adamw\nlr=0.01\n";

/* Ids once, then rounds, as in the simulation. */
TEST_F(HoneClient, ClientsOfBlocksMakeTheModelOfTheSimulation)
{
    hn_fed_layout_free(&layout);
    hn_fed_server_free(server);
    server = nullptr;
    open_server("sparse");
    std::vector<std::unique_ptr<Loaded>> clients;
    for (int k = 0; k < kClients; k++) {
        clients.push_back(std::make_unique<Loaded>(config(k, kBlocks), k));
        ASSERT_EQ(clients.back()->code, HONE_OK) << hone_last_error();
        ASSERT_EQ(hone_client_set_payload(clients.back()->c, ids.data(), ids.size()), HONE_OK)
            << hone_last_error();
        EXPECT_EQ(hone_client_values(clients.back()->c), layout.n);
    }
    const auto start = values();
    for (int64_t round = 1; round <= 2; round++) {
        std::vector<std::string> updates;
        const std::string m = model_message(round);
        for (const auto &l : clients) {
            ASSERT_EQ(hone_client_set_payload(l->c, m.data(), m.size()), HONE_OK)
                << hone_last_error();
            ASSERT_EQ(hone_client_train_round(l->c, nullptr, nullptr), HONE_OK);
            updates.push_back(l->update());
        }
        aggregate(round, updates);
    }
    Words run = w.cnn("train", "2") + Words{"--method",  "fedavg", "--classes",   "6",
                                            "--payload", "sparse", "--optimizer", "adamw"};
    run[(size_t)(std::find(run.begin(), run.end(), "--clients") - run.begin()) + 1] = "4";
    run[(size_t)(std::find(run.begin(), run.end(), "--lr") - run.begin()) + 1] = "0.01";
    expect_done(w.run(run + w.to("run")));
    hn_fed_server *simulated = nullptr;
    ASSERT_HN_OK(
        hn_fed_server_load(&layout, &method, (w / "run/checkpoint-2").c_str(), &simulated));
    EXPECT_FALSE(same_bits(values(), start));
    EXPECT_TRUE(same_bits(
        values(), {hn_fed_server_values(simulated), hn_fed_server_values(simulated) + layout.n}));
    hn_fed_server_free(simulated);
}

TEST_F(HoneClient, IdsOfBlocksComeFirstAndOnce)
{
    hn_fed_layout_free(&layout);
    hn_fed_server_free(server);
    server = nullptr;
    open_server("sparse");
    const std::string m = model_message(1);
    const Loaded l(config(0, kBlocks)), full(config(0));
    hone_scores scores = {.size = sizeof scores};
    ASSERT_EQ(l.code, HONE_OK) << hone_last_error();
    EXPECT_EQ(hone_client_values(l.c), 0);
    EXPECT_EQ(hone_client_images(l.c), 24);
    EXPECT_BAD(hone_client_set_payload(l.c, m.data(), m.size()), "ids of its blocks come first");
    EXPECT_BAD(hone_client_evaluate(l.c, &scores), "no ids");
    EXPECT_BAD(hone_client_train_round(l.c, nullptr, nullptr), "no model of a round");
    EXPECT_BAD(hone_client_set_payload(full.c, ids.data(), ids.size()), "payload full");
    /* ids that are none, or of another network, are as if they had not come */
    EXPECT_BAD(hone_client_set_payload(l.c, ids.data(), ids.size() - 1), "ids of blocks");
    const int32_t one[] = {0};
    const hn_fed_matrix other = {.name = "conv2.weight",
                                 .out = 8,
                                 .in = 8,
                                 .br = 1,
                                 .bc = 1,
                                 .n = 1,
                                 .id = one,
                                 .values = 0};
    hn_fed_support s = {};
    hn_fed_bytes b = {};
    ASSERT_HN_OK(hn_fed_support_add(&s, &other));
    ASSERT_HN_OK(hn_fed_support_encode(&s, &b));
    EXPECT_BAD(hone_client_set_payload(l.c, b.data, b.n), "conv2.weight");
    hn_fed_support_free(&s);
    /* before room is made for 4 GiB of them */
    const int64_t side = 1 << 15;
    hn_fed_matrix large = other;
    large.name = "other.weight";
    large.out = large.in = large.br = large.bc = side;
    ASSERT_HN_OK(hn_fed_support_add(&s, &large));
    ASSERT_HN_OK(hn_fed_support_encode(&s, &b));
    EXPECT_BAD(hone_client_set_payload(l.c, b.data, b.n), "1 matrices, the model has 0 of them");
    hn_fed_bytes_free(&b);
    hn_fed_support_free(&s);
    ASSERT_EQ(hone_client_set_payload(l.c, ids.data(), ids.size()), HONE_OK) << hone_last_error();
    EXPECT_BAD(hone_client_set_payload(l.c, ids.data(), ids.size()), "second");
    ASSERT_EQ(hone_client_set_payload(l.c, m.data(), m.size()), HONE_OK) << hone_last_error();
    EXPECT_EQ(hone_client_evaluate(l.c, &scores), HONE_OK);
    const Loaded chooses(config(0, kBlocks + "sparse-budget=1%\n"));
    EXPECT_EQ(chooses.code, HONE_BAD_INPUT);
    EXPECT_TRUE(contains(hone_last_error(), "sparse-budget")) << hone_last_error();
}

TEST_F(HoneClient, RefusesWhatCannotBe)
{
    const Loaded ok(config(0));
    const std::string m = model_message(1);
    std::string bad = m;
    bad[200] = (char)(bad[200] ^ 1);
    EXPECT_BAD(hone_client_set_payload(ok.c, bad.data(), bad.size()), "checksum");
    EXPECT_BAD(hone_client_set_payload(ok.c, m.data(), m.size() / 2), "");
    EXPECT_BAD(hone_client_set_payload(ok.c, "hello", 5), "");
    EXPECT_EQ(hone_client_round(ok.c), -1);
    const Loaded other(config(0, "payload=head\n"));
    ASSERT_EQ(other.code, HONE_OK) << hone_last_error();
    EXPECT_BAD(hone_client_set_payload(other.c, m.data(), m.size()), "");
    EXPECT_EQ(Loaded("model=mnist-cnn\n").code, HONE_BAD_INPUT);
    EXPECT_NE(std::strstr(hone_last_error(), "data"), nullptr) << hone_last_error();
    EXPECT_EQ(Loaded(config(0, "batch-sise=3\n")).code, HONE_BAD_INPUT);
    EXPECT_NE(std::strstr(hone_last_error(), "batch-size"), nullptr) << hone_last_error();
    EXPECT_EQ(Loaded(config(0, "just a line\n")).code, HONE_BAD_INPUT);
    EXPECT_NE(std::strstr(hone_last_error(), "name=value"), nullptr) << hone_last_error();
    EXPECT_EQ(Loaded(config(0, "classes=3\n")).code, HONE_BAD_INPUT);
    EXPECT_EQ(Loaded(config(0), -1).code, HONE_BAD_INPUT);
    hone_scores small = {};
    EXPECT_BAD(hone_client_evaluate(ok.c, &small), "size");
}

} // namespace
