/* The programs and the choice of a device, in builds with CUDA. */
#include "cli_run_test.h"
#include "cuda_test.h"

namespace {

Words on(const std::string &device, const std::string &executor = "auto")
{
    return {"--device", device, "--executor", executor};
}

/* A program that sees no GPU, whatever the machine has. */
class HiddenGpu {
  public:
    const char *was = std::getenv("CUDA_VISIBLE_DEVICES");
    const std::string before = was ? was : "";
    HiddenGpu() { setenv("CUDA_VISIBLE_DEVICES", "", 1); }
    ~HiddenGpu()
    {
        if (was != nullptr)
            setenv("CUDA_VISIBLE_DEVICES", before.c_str(), 1);
        else
            unsetenv("CUDA_VISIBLE_DEVICES");
    }
};

TEST(CliDevice, WithoutAGpuAutoTakesTheCpuAndSaysWhy)
{
    const HiddenGpu hidden;
    const Workplace w;
    const Ran r = w.run(w.train("o", 2) + on("auto"));
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "device: cpu, 1 thread (no ")) << r.err;
}

TEST(CliDevice, WithoutAGpuCudaIsRefused)
{
    const HiddenGpu hidden;
    const Workplace w;
    for (const char *device : {"cuda", "cuda:0"}) {
        const auto before = listing(w.str());
        expect_refused(w.run(w.train("o", 2) + on(device)), 2, {"ERR_UNSUPPORTED", "no "});
        EXPECT_EQ(listing(w.str()), before);
    }
}

TEST(CliDevice, PlansForAGpuThatIsNotThere)
{
    const HiddenGpu hidden;
    const Workplace w;
    const Ran r = w.run({"hone-lora", "plan", "--model", w / "model", "--device", "cuda", "--dtype",
                         "bf16", "--memory", "80"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "device: a GPU that is not here (no ")) << r.err;
    EXPECT_TRUE(contains(r.out, "library workspace")) << r.out;
    EXPECT_TRUE(contains(r.out, "known on the GPU itself only")) << r.out;
    EXPECT_FALSE(contains(r.out, "does not fit")) << r.out;
}

TEST(CliDeviceCuda, WhatIsNotThereIsNamed)
{
    HN_NEED_CUDA();
    const Workplace w;
    expect_refused(w.run(w.train("o", 2) + on("cuda:77")), 2, {"cuda:77: there "});
    expect_refused(w.run(w.train("o", 2) + on("cpu", "cuda-graph")), 2, {"needs a GPU"});
}

TEST(CliDeviceCuda, AutoTakesTheGpuAndSaysSo)
{
    HN_NEED_CUDA();
    const Workplace w;
    const Ran r = w.run(w.train("o", 2) + on("auto"));
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "device: cuda:0, ")) << r.err;
    EXPECT_TRUE(contains(r.err, "library workspace")) << r.err;
}

/* Files that are no libraries stand before the real ones. */
TEST(CliDeviceCuda, AMissingLibraryIsNamed)
{
    HN_NEED_CUDA();
    const Workplace w;
    std::filesystem::create_directory(w / "lib");
    for (const char *name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"})
        write_file((w / "lib/") + name, "no library");
    const char *old = std::getenv("LD_LIBRARY_PATH");
    const std::string path = old ? old : "";
    setenv("LD_LIBRARY_PATH", ((w / "lib") + ":" + path).c_str(), 1);
    const Ran cuda = w.run(w.train("o", 2) + on("cuda")), cpu = w.run(w.train("o", 2) + on("cpu"));
    if (old)
        setenv("LD_LIBRARY_PATH", path.c_str(), 1);
    else
        unsetenv("LD_LIBRARY_PATH");
    expect_refused(cuda, 2, {"cuBLASLt cannot be opened", "libcublasLt.so.13", "LD_LIBRARY_PATH"});
    expect_done(cpu);
}

/* cuDNN: auto goes without and says so, by name it is an error. */
TEST(CliDeviceCuda, AMissingCudnnIsNamed)
{
    HN_NEED_CUDA();
    const Workplace w;
    std::filesystem::create_directory(w / "lib");
    write_file(w / "lib/libcudnn.so.9", "no library");
    const char *old = std::getenv("LD_LIBRARY_PATH");
    const std::string path = old ? old : "";
    const Words bf16 = on("cuda") + Words{"--dtype", "bf16"};
    setenv("LD_LIBRARY_PATH", ((w / "lib") + ":" + path).c_str(), 1);
    const Ran cudnn = w.run(w.train("a", 2) + bf16 + Words{"--attention", "cudnn"});
    const Ran fast = w.run(w.train("b", 2) + bf16 + Words{"--attention", "fast"});
    const Ran without = w.run(w.train("c", 2) + bf16);
    if (old)
        setenv("LD_LIBRARY_PATH", path.c_str(), 1);
    else
        unsetenv("LD_LIBRARY_PATH");
    for (const Ran &r : {cudnn, fast})
        expect_refused(r, 2, {"libcudnn.so.9", "LD_LIBRARY_PATH", "--attention auto or hone"});
    expect_done(without);
    EXPECT_TRUE(contains(without.err, "attention: hone, forward (")) << without.err;
    EXPECT_TRUE(contains(without.err, "libcudnn.so.9")) << without.err;
}

/* Weights that no GPU holds: refused before anything is taken or written, and told what helps. */
TEST(CliDeviceCuda, APlanThatDoesNotFitSaysWhatWould)
{
    HN_NEED_CUDA();
    const Workplace w;
    const std::string config = (w / "model") + "/config.json";
    replace_in_file(config, "\"hidden_size\": 32", "\"hidden_size\": 32768");
    replace_in_file(config, "\"intermediate_size\": 40", "\"intermediate_size\": 262144");
    replace_in_file(config, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 8");
    const Ran r = w.run({"hone-lora", "train", "--model", config, "--data", w / "text.txt",
                         "--seq-len", "16", "--batch-size", "2", "--cache-dir", "off", "--out",
                         w / "o", "--steps", "1", "--device", "cuda"});
    expect_refused(r, 1, {"ERR_MEMORY", "the plan needs", "are free on cuda:0", "--batch-size"});
    EXPECT_FALSE(std::filesystem::exists(w / "o"));
}

TEST(CliDeviceCuda, BothExecutorsWriteTheSameBytesAndResumeEachOther)
{
    HN_NEED_CUDA();
    const Workplace w;
    const Words extra = {"--dropout", "0.1", "--accumulation", "2", "--dtype", "bf16"};
    expect_done(w.run(w.train("graph", 20) + extra + on("cuda", "cuda-graph")));
    expect_done(w.run(w.train("nodes", 20) + extra + on("cuda", "cuda")));
    EXPECT_EQ(trained_bytes((w / "graph") + "/checkpoint-20"),
              trained_bytes((w / "nodes") + "/checkpoint-20"));
    expect_done(
        w.run(w.train("mixed", 20) + extra + on("cuda", "cuda") + Words{"--stop-after", "10"}));
    expect_done(w.run(w.train("mixed", 20) + extra + on("cuda", "cuda-graph") +
                      Words{"--resume", "auto", "--stop-after", "0"}));
    EXPECT_EQ(trained_bytes((w / "mixed") + "/checkpoint-20"),
              trained_bytes((w / "nodes") + "/checkpoint-20"));
    EXPECT_TRUE(contains(read_file((w / "mixed") + "/checkpoint-20/state.json"), "gemm_plans"));
}

TEST(CliDeviceCuda, AnotherDeviceResumesOnlyWhenAsked)
{
    HN_NEED_CUDA();
    const Workplace w;
    expect_done(w.run(w.train("o", 4) + on("cuda") + Words{"--stop-after", "2"}));
    const Words again =
        w.train("o", 4) + on("cpu") + Words{"--resume", "auto", "--stop-after", "0"};
    expect_refused(w.run(again), 2, {"made on a GPU, this run is on the CPU", "--resume-device"});
    const Ran r = w.run(again + Words{"--resume-device", "any"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "other bits")) << r.err;
}

/* tune writes what train, its checkpoint and its continuation then use. */
TEST(CliTuneCuda, TrainUsesWhatTuneFound)
{
    HN_NEED_CUDA();
    const Workplace w;
    const std::string plans = w / "cache/plans.json";
    const Words bf16 = on("cuda") + Words{"--dtype", "bf16", "--plans", plans};
    const Words shape = {"--model", w / "model", "--seq-len", "16", "--batch-size", "2"};
    const Ran tuned = w.run(Words{"hone-lora", "tune"} + shape + bf16);
    expect_done(tuned);
    for (const char *part : {"first us", "TFLOP/s", "products are faster", "cache/plans.json"})
        EXPECT_TRUE(contains(tuned.out, part)) << tuned.out;
    const std::string file = read_file(plans);
    EXPECT_TRUE(contains(file, "hone gemm plans")) << file;

    const Ran whole = w.run(w.train("whole", 20) + bf16);
    expect_done(whole);
    EXPECT_TRUE(contains(whole.err, "plans in " + plans)) << whole.err;
    EXPECT_TRUE(contains(whole.err, ", 0 with the library's first choice")) << whole.err;
    expect_done(w.run(w.train("parts", 20) + bf16 + Words{"--stop-after", "10"}));
    /* the checkpoint's own plans go before: without the file the bits stay */
    expect_done(
        w.run(w.train("parts", 20) + on("cuda") +
              Words{"--dtype", "bf16", "--plans", "off", "--resume", "auto", "--stop-after", "0"}));
    EXPECT_EQ(trained_bytes((w / "whole") + "/checkpoint-20"),
              trained_bytes((w / "parts") + "/checkpoint-20"));

    /* another length: its plans join those that are there */
    Words longer = shape;
    longer[3] = "32";
    expect_done(w.run(Words{"hone-lora", "tune"} + longer + bf16));
    EXPECT_GT(read_file(plans).size(), file.size());
}

TEST(CliTuneCuda, ForeignAndDamagedFilesAreNamed)
{
    HN_NEED_CUDA();
    const Workplace w;
    const std::string plans = w / "plans.json";
    const Words with = on("cuda") + Words{"--plans", plans};
    const Words tune = {"hone-lora", "tune", "--model", w / "model", "--seq-len", "16"};
    expect_refused(w.run(w.train("o", 2) + with), 2, {"plans.json"}); /* not there */
    write_file(plans, R"({"what":"hone gemm plans","version":1,"gpu":"Voodoo 2","library":1,)"
                      R"("plans":[]})");
    const Ran foreign = w.run(w.train("foreign", 2) + with);
    expect_done(foreign);
    EXPECT_TRUE(contains(foreign.err, "is for cuBLASLt 1 on Voodoo 2")) << foreign.err;
    const std::string before = read_file(plans);
    expect_refused(w.run(tune + with), 2, {"Voodoo 2", "another file"});
    EXPECT_EQ(read_file(plans), before);
    write_file(plans, "{\"what\": ");
    expect_refused(w.run(w.train("damaged", 2) + with), 2, {"ERR_FORMAT", "plans.json"});
    expect_refused(w.run(tune + with), 2, {"ERR_FORMAT", "plans.json"});
    expect_refused(w.run(tune + on("cuda") + Words{"--plans", "off"}), 2, {"--plans off"});
}

/* The losses of 200 steps on real data, on both devices. */
TEST(CliDeviceCuda, LearnsWhatTheCpuLearnsFor200Steps)
{
    HN_NEED_CUDA();
    HN_NEED_DATA(model, "babyllama-char105");
    HN_NEED_DATA(text, "tinyshakespeare");
    const Workplace w;
    std::map<int, std::string> losses[2];
    for (int k = 0; k < 2; k++) {
        const std::string out = w / (k ? "cuda" : "cpu");
        expect_done(w.run({"hone-lora",    "train",
                           "--model",      model,
                           "--data",       text + "/input.txt",
                           "--seq-len",    "128",
                           "--batch-size", "4",
                           "--steps",      "200",
                           "--lr",         "1e-3",
                           "--cache-dir",  "off",
                           "--out",        out,
                           "--dtype",      "f32",
                           "--device",     k ? "cuda" : "cpu",
                           "--threads",    "8"}));
        losses[k] = column(out, "loss");
    }
    ASSERT_EQ(losses[0].size(), 200u);
    double worst = 0;
    for (const auto &[step, loss] : losses[0])
        worst = std::max(worst, std::fabs(std::stod(loss) - std::stod(losses[1].at(step))));
    std::printf("largest difference of 200 losses: %.3g\n", worst);
    EXPECT_LT(worst, 1e-4);
    EXPECT_LT(std::stod(losses[1].at(200)), std::stod(losses[1].at(1)));
}

} // namespace
