/* pearl_test.h - a small stream of tasks and short runs of hone-pearl on it. */
#ifndef HN_PEARL_TEST_H
#define HN_PEARL_TEST_H
#include "cli_test.h"
#include "image_test.h"
#include "runtime/base/json.h"

/* Images of 8 x 8: class k has bright stripes where (row + 2 column) mod 6 = k, in noise. */
inline std::string striped(int n, uint32_t channels, unsigned seed)
{
    std::mt19937 rng(seed);
    std::string s;
    for (int i = 0; i < n; i++)
        for (int y = 0; y < 8; y++)
            for (int x = 0; x < 8; x++)
                for (uint32_t c = 0; c < channels; c++)
                    s += (char)((y + 2 * x) % 6 == i % 6 ? 170 + rng() % 70 : 20 + rng() % 110);
    return idx(8, {(uint32_t)n, 8, 8, channels}, s);
}

/* A JSON file, closed at the end. */
class Json {
    json_t *root_ = nullptr;

  public:
    explicit Json(const std::string &path) { EXPECT_HN_OK(hn_json_load(path.c_str(), &root_)); }
    Json(const Json &) = delete;
    ~Json() { json_decref(root_); }
    const json_t *root() const { return root_; }
    /* "cell.per_task.1.mean_rank" */
    const json_t *at(const std::string &path) const
    {
        const json_t *v = root_;
        std::istringstream s(path);
        for (std::string key; std::getline(s, key, '.');)
            v = json_is_array(v) ? json_array_get(v, std::stoul(key))
                                 : json_object_get(v, key.c_str());
        EXPECT_NE(v, nullptr) << path;
        return v;
    }
    double number(const std::string &path) const { return json_number_value(at(path)); }
    std::string text(const std::string &path) const
    {
        const char *t = json_string_value(at(path));
        return t ? t : "";
    }
};

/* A folder with 72 training and 36 held-out images of six classes, and a small transformer. */
class PearlPlace {
    TempDir dir_;

  public:
    PearlPlace()
    {
        for (const uint32_t channels : {1u, 3u}) {
            const std::string data = dir_ / ("data" + std::to_string(channels));
            std::filesystem::create_directory(data);
            std::vector<int> train(72), eval(36);
            for (size_t i = 0; i < train.size(); i++) train[i] = (int)i % 6;
            for (size_t i = 0; i < eval.size(); i++) eval[i] = (int)i % 6;
            write_file(data + "/train-images-idx4-ubyte", striped(72, channels, 1));
            write_file(data + "/train-labels-idx1-ubyte", idx_labels(train));
            write_file(data + "/t10k-images-idx4-ubyte", striped(36, channels, 2));
            write_file(data + "/t10k-labels-idx1-ubyte", idx_labels(eval));
        }
        write_file(dir_ / "vit.json",
                   R"({"model_type":"vit","architectures":["ViTForImageClassification"],)"
                   R"("image_size":8,"patch_size":4,"num_channels":1,"hidden_size":16,)"
                   R"("num_hidden_layers":2,"num_attention_heads":2,"intermediate_size":24})");
    }
    std::string operator/(const std::string &name) const { return dir_ / name; }

    Ran run(const Words &words) const { return Program(words, dir_.str()).wait(); }
    Words vit(const std::string &verb = "train") const
    {
        return {"hone-pearl",     verb,
                "--model",        dir_ / "vit.json",
                "--data",         dir_ / "data1",
                "--increment",    "2",
                "--batch-size",   "8",
                "--epochs",       "2",
                "--probe-epochs", "0.7",
                "--optimizer",    "adamw",
                "--lr",           "0.01",
                "--device",       test_device()};
    }
    Words resnet(const std::string &verb = "train") const
    {
        return {"hone-pearl",   verb,         "--model",        "resnet20",
                "--image-size", "8",          "--data",         dir_ / "data3",
                "--increment",  "2",          "--batch-size",   "8",
                "--epochs",     "2",          "--probe-epochs", "0.7",
                "--momentum",   "0.9",        "--augment",      "none",
                "--device",     test_device()};
    }
    static Words without(Words w, const std::string &option)
    {
        const auto at = std::find(w.begin(), w.end(), option);
        w.erase(at, at + 2);
        return w;
    }
    /* The same without what only pearl takes. */
    Words plain(const std::string &strategy) const
    {
        return without(vit(), "--probe-epochs") + Words{"--strategy", strategy};
    }
    Words to(const std::string &out) const { return {"--out", dir_ / out}; }
    std::string record(const std::string &out, int task, const std::string &file) const
    {
        return dir_ / (out + "/task-00" + std::to_string(task) + "/" + file);
    }
};

/* What every task of a run has left, bit for bit. */
inline std::string kept(const PearlPlace &w, const std::string &out)
{
    std::string all;
    for (int t = 1; t <= 3; t++) {
        all += read_file(w.record(out, t, "delta.safetensors"));
        all += read_file(w.record(out, t, "prototypes.safetensors"));
        const Json json(w.record(out, t, "task.json"));
        for (const char *key : {"logits_sha256", "accuracy", "layers"}) {
            const json_t *v = json_object_get(json.root(), key);
            char *text = v ? json_dumps(v, JSON_COMPACT) : nullptr;
            all += text ? text : "none";
            free(text);
        }
    }
    return all;
}

#endif
