/* cli_run_test.h - what a training run has left in its out folder. */
#ifndef HN_CLI_RUN_TEST_H
#define HN_CLI_RUN_TEST_H
#include "cli_test.h"
#include "runtime/base/save.h"

/* Trained values and moments of a checkpoint, as bytes. */
inline std::map<std::string, std::string> trained_bytes(const std::string &checkpoint)
{
    std::map<std::string, std::string> files;
    for (const char *name : {"delta.safetensors", "optimizer-0.safetensors"}) {
        files[name] = read_file(checkpoint + "/" + name);
        EXPECT_GE(files[name].size(), 16u) << checkpoint; /* a header, at least */
    }
    return files;
}

/* A column of metrics.csv by step; cells without a value are left out. */
inline std::map<int, std::string> column(const std::string &out, const std::string &name)
{
    std::map<int, std::string> cells;
    int at = -1;
    for (const auto &line : lines_of(read_file(out + "/metrics.csv"))) {
        std::istringstream s(line);
        std::vector<std::string> row;
        for (std::string cell; std::getline(s, cell, ',');) row.push_back(cell);
        if (at < 0) {
            for (size_t i = 0; i < row.size(); i++)
                if (row[i] == name) at = (int)i;
            EXPECT_GE(at, 0) << line;
            if (at < 0) break;
        } else if (at < (int)row.size() && !row[(size_t)at].empty()) {
            EXPECT_TRUE(cells.emplace(std::stoi(row[0]), row[(size_t)at]).second)
                << "step " << row[0] << " twice";
        }
    }
    return cells;
}

/* Names of its checkpoints, in byte order. */
inline std::vector<std::string> checkpoints_of(const std::string &out)
{
    std::vector<std::string> names;
    for (const auto &[name, content] : listing(out))
        if (name.back() == '/' && name.rfind("checkpoint-", 0) == 0)
            names.push_back(name.substr(0, name.size() - 1));
    return names;
}

/* COMPLETE anew, as if the files of the folder were those that were written. */
inline void complete_again(const std::string &folder, int step)
{
    std::string files;
    for (const auto &e : std::filesystem::directory_iterator(folder)) {
        const std::string name = e.path().filename().string();
        char hex[HN_SHA256_HEX];
        uint64_t bytes = 0;
        if (name == "COMPLETE") continue;
        EXPECT_HN_OK(hn_sha256_file(e.path().c_str(), &bytes, hex));
        files += (files.empty() ? "" : ", ") + ("{\"name\": \"" + name) +
                 "\", \"bytes\": " + std::to_string(bytes) + ", \"sha256\": \"" + hex + "\"}";
    }
    write_file(folder + "/COMPLETE", "{\"format\": 1, \"step\": " + std::to_string(step) +
                                         ", \"files\": [" + files + "]}");
}

#endif
