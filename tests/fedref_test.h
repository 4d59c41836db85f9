/* fedref_test.h - few striped images, few clients, and short runs of hone-fedref on them. */
#ifndef HN_FEDREF_TEST_H
#define HN_FEDREF_TEST_H
#include "pearl_test.h"

/* Images of 16 x 16: class k has bright stripes where (row + column) mod 6 = k, in noise. */
inline std::string stripes(int n, unsigned seed)
{
    std::mt19937 rng(seed);
    std::string s;
    for (int i = 0; i < n; i++)
        for (int y = 0; y < 16; y++)
            for (int x = 0; x < 16; x++)
                s += (char)((y + x) % 6 == i % 6 ? 170 + rng() % 70 : 20 + rng() % 110);
    return idx(8, {(uint32_t)n, 16, 16}, s);
}

/* 96 training and 48 held-out images of six classes, in a folder. */
class FedPlace {
    TempDir dir_;

  public:
    FedPlace()
    {
        std::filesystem::create_directory(dir_ / "data");
        std::vector<int> train(96), eval(48);
        for (size_t i = 0; i < train.size(); i++) train[i] = (int)i % 6;
        for (size_t i = 0; i < eval.size(); i++) eval[i] = (int)i % 6;
        write_file(dir_ / "data/train-images-idx3-ubyte", stripes(96, 1));
        write_file(dir_ / "data/train-labels-idx1-ubyte", idx_labels(train));
        write_file(dir_ / "data/t10k-images-idx3-ubyte", stripes(48, 2));
        write_file(dir_ / "data/t10k-labels-idx1-ubyte", idx_labels(eval));
        write_file(dir_ / "vit.json",
                   R"({"model_type":"vit","architectures":["ViTForImageClassification"],)"
                   R"("image_size":16,"patch_size":4,"num_channels":1,"hidden_size":32,)"
                   R"("num_hidden_layers":2,"num_attention_heads":2,"intermediate_size":64})");
    }
    std::string operator/(const std::string &name) const { return dir_ / name; }

    Ran run(const Words &words) const { return Program(words, dir_.str()).wait(); }
    /* Eight clients, all of them asked. */
    Words cnn(const std::string &verb = "train", const std::string &rounds = "3") const
    {
        return {"hone-fedref", verb,           "--model",      "mnist-cnn", "--image-size",
                "16",          "--data",       dir_ / "data",  "--clients", "8",
                "--rounds",    rounds,         "--batch-size", "4",         "--lr",
                "0.1",         "--eval-batch", "16",           "--device",  test_device()};
    }
    Words vit(const std::string &verb = "train") const
    {
        Words w = cnn(verb);
        w[3] = dir_ / "vit.json";
        w.erase(w.begin() + 4, w.begin() + 6); /* the file says how large images are */
        return w;
    }
    Words to(const std::string &out) const { return {"--out", dir_ / out}; }
    /* The model that a run has come to, as bytes. */
    std::string model(const std::string &out) const
    {
        const std::string to = dir_ / (out + "-model");
        expect_done(run({"hone-fedref", "export", "--run", dir_ / out, "--to", to}));
        const std::string bytes = read_file(to + "/model.safetensors");
        EXPECT_GT(bytes.size(), 1000u);
        return bytes;
    }
    /* Trains, and gives the model. */
    std::string trained(const std::string &out, const Words &words) const
    {
        expect_done(run(words + to(out)));
        return model(out);
    }
    /* rounds.csv without the columns of time, which are the last three. */
    std::string rounds(const std::string &out) const
    {
        std::string all;
        for (std::string line : lines_of(read_file(dir_ / (out + "/rounds.csv")))) {
            for (int i = 0; i < 3; i++) line.resize(line.rfind(','));
            all += line + "\n";
        }
        return all;
    }
    /* A column of rounds.csv; an empty cell is NaN. */
    std::vector<double> column(const std::string &out, const std::string &name) const
    {
        const auto lines = lines_of(read_file(dir_ / (out + "/rounds.csv")));
        std::vector<double> v;
        size_t at = 0;
        for (size_t i = 0; i < lines.size(); i++) {
            std::vector<std::string> cell;
            std::string text;
            for (std::istringstream s(lines[i] + ","); std::getline(s, text, ',');)
                cell.push_back(text);
            if (i == 0) {
                at = (size_t)(std::find(cell.begin(), cell.end(), name) - cell.begin());
                EXPECT_LT(at, cell.size()) << name;
                if (at == cell.size()) break;
            } else {
                v.push_back(cell[at].empty() ? NAN : std::stod(cell[at]));
            }
        }
        return v;
    }
};

#endif
