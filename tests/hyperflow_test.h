/* hyperflow_test.h - small domains of images, and hone-hyperflow's verbs on them. */
#ifndef HN_HYPERFLOW_TEST_H
#define HN_HYPERFLOW_TEST_H
#include "pearl_test.h"

/* Images of 12 x 12: class k has stripes of direction k / 6 and phase k mod 6, in noise. */
inline std::string stripes(int n, int classes, unsigned seed)
{
    std::mt19937 rng(seed);
    std::string s;
    for (int i = 0; i < n; i++)
        for (int y = 0; y < 12; y++)
            for (int x = 0; x < 12; x++) {
                const int k = i % classes, at = k < 6 ? y + x : y + 2 * x + 5;
                s += (char)(at % 6 == k % 6 ? 150 + rng() % 90 : 20 + rng() % 130);
            }
    return s;
}

/* Domain "near" of 12 classes with 12 images each; "far" of 3 with 30 each; a small transformer. */
class FlowPlace {
    TempDir dir_;

    void domain(const std::string &name, int n, int classes, const std::string &pixel) const
    {
        std::filesystem::create_directories(dir_ / ("data/" + name));
        std::vector<int> label((size_t)n);
        for (int i = 0; i < n; i++) label[(size_t)i] = i % classes;
        const std::string at = dir_ / ("data/" + name + "/train-");
        write_file(at + "images-idx3-ubyte", idx(8, {(uint32_t)n, 12, 12}, pixel));
        write_file(at + "labels-idx1-ubyte", idx_labels(label));
    }

  public:
    FlowPlace()
    {
        domain("near", 144, 12, stripes(144, 12, 1));
        far(stripes(90, 3, 2));
        write_file(dir_ / "vit.json",
                   R"({"model_type":"vit","architectures":["ViTForImageClassification"],)"
                   R"("image_size":12,"patch_size":4,"num_channels":1,"hidden_size":16,)"
                   R"("num_hidden_layers":2,"num_attention_heads":2,"intermediate_size":32})");
    }
    void drawings(const std::string &pixel) { domain("omniglot", 144, 12, pixel); }
    void far(const std::string &pixel) { domain("far", 90, 3, pixel); }
    /* Domain "super": the classes and superclasses of CIFAR-100, 3 images each; its model. */
    void superclasses() const
    {
        std::vector<int> label;
        for (int i = 0; i < 300; i++) label.push_back(i % 100);
        std::filesystem::create_directories(dir_ / "data/super");
        write_file(dir_ / "data/super/train.bin", cifar(100, label, 3));
        write_file(dir_ / "color.json",
                   R"({"model_type":"vit","architectures":["ViTForImageClassification"],)"
                   R"("image_size":32,"patch_size":8,"num_channels":3,"hidden_size":16,)"
                   R"("num_hidden_layers":2,"num_attention_heads":2,"intermediate_size":32})");
    }
    /* Domain "letters": alphabets A of 20 characters and B of 4, 10 images each. */
    void letters() const
    {
        domain("letters", 240, 24, stripes(240, 24, 4));
        std::string names;
        for (int i = 0; i < 24; i++) names += (i < 20 ? "A/" : "B/") + std::to_string(i) + "\n";
        write_file(dir_ / "data/letters/classes.txt", names);
    }
    /* What Meta-Dataset's rule would draw. */
    Words check_meta(const std::string &model, const std::string &train, const std::string &test,
                     const std::string &split) const
    {
        return {"hone-hyperflow", "check",        "--model",         dir_ / model,
                "--data",         dir_ / "data",  "--train-domains", train,
                "--test-domains", test,           "--split",         split,
                "--protocol",     "meta-dataset", "--device",        test_device()};
    }
    std::string operator/(const std::string &name) const { return dir_ / name; }
    Ran run(const Words &words) const { return Program(words, dir_.str()).wait(); }

    /* 12 episodes from 2 starts. */
    Words generate(const std::string &out) const
    {
        return {"hone-hyperflow",
                "generate",
                "--model",
                dir_ / "vit.json",
                "--data",
                dir_ / "data",
                "--train-domains",
                "near",
                "--test-domains",
                "near:test,far",
                "--split",
                "50/25/25",
                "--way",
                "3",
                "--shot",
                "2",
                "--query-shot",
                "3",
                "--valid-episodes",
                "3",
                "--tune-steps",
                "4",
                "--knots",
                "3",
                "--trajectories",
                "24",
                "--inits",
                "2",
                "--at-once",
                "4",
                "--rates",
                "1e-3,1e-2",
                "--device",
                test_device(),
                "--out",
                dir_ / out};
    }
    Words of(const std::string &verb, const std::string &out) const
    {
        return {"hone-hyperflow", verb, "--run", dir_ / out};
    }
    /* A small network, on the encoder that `encoder` says. */
    Words train_on(const std::string &out, const Words &encoder) const
    {
        return of("train", out) + encoder +
               Words{"--width",      "16", "--blocks",     "1", "--queries",     "2",
                     "--iterations", "8",  "--warmup",     "2", "--drift-batch", "3",
                     "--times",      "4",  "--save-every", "4", "--log-every",   "4"};
    }
    Words train(const std::string &out) const
    {
        return train_on(out, {"--encoder", "mnist-cnn-small", "--encoder-image", "12",
                              "--encoder-epochs", "2", "--encoder-batch", "16"});
    }
    Words eval(const std::string &out, const std::string &methods) const
    {
        return of("eval", out) +
               Words{"--methods", methods, "--test-episodes", "6", "--full-rates", "1e-3"};
    }
    std::string bytes(const std::string &name) const { return read_file(dir_ / name); }
    /* A member of a cell as text: seconds are none of it. */
    std::string member(const std::string &cell, const std::string &key) const
    {
        const Json json(dir_ / cell);
        char *text = json_dumps(json.at(key), JSON_COMPACT | JSON_ENCODE_ANY);
        const std::string all = text ? text : "none";
        free(text);
        return all;
    }
};

/* A copy of `from` under another name: a run that goes its own way from there on. */
inline void copy_run(const FlowPlace &w, const std::string &from, const std::string &to)
{
    std::filesystem::copy(w / from, w / to, std::filesystem::copy_options::recursive);
}

#endif
