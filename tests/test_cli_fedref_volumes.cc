/* hone-fedref on volumes: sites, methods, going on, export, and what is refused. */
#include "cli_ranks_test.h"
#include "fedref_test.h"
#include "runtime/data/nifti.h"

namespace {

const Words fedavg = {"--method", "fedavg"};

enum { SIDE = 18 };

/* A cube of SIDE voxels: bright balls are class 1, dark ones class 2, in grey noise. */
struct Balls {
    std::string value, label;
    explicit Balls(unsigned seed) : value(SIDE * SIDE * SIDE, 0), label(value.size(), 0)
    {
        std::mt19937 rng(seed);
        for (int ball = 0; ball < 10; ball++) {
            int at[3];
            for (int &a : at) a = (int)(rng() % SIDE);
            for (int i = 0; i < (int)label.size(); i++) {
                const int p[] = {i / SIDE / SIDE, i / SIDE % SIDE, i % SIDE};
                int d = 0;
                for (int a = 0; a < 3; a++) d += (p[a] - at[a]) * (p[a] - at[a]);
                if (d <= 9) label[(size_t)i] = (char)(1 + ball % 2);
            }
        }
        const int mean[] = {120, 200, 40};
        for (size_t i = 0; i < value.size(); i++)
            value[i] = (char)(mean[(int)label[i]] + (int)(rng() % 40));
    }
};

void write_volume(const std::string &path, const std::string &bytes)
{
    hn_nifti_info info = {};
    info.nx = info.ny = info.nz = SIDE;
    info.space.unit = 2;
    for (double &p : info.space.pixdim) p = 1;
    EXPECT_HN_OK(hn_nifti_save_mask(path.c_str(), &info, (const uint8_t *)bytes.data()));
}

/* Two volumes with labels beside them in a folder, and a list of them as the sites north, south. */
class VolumePlace : public FedPlace {
  public:
    VolumePlace()
    {
        std::filesystem::create_directory(*this / "volumes");
        for (unsigned k = 0; k < 2; k++) {
            const Balls b(k + 1);
            const std::string name = *this / ("volumes/v" + std::to_string(k));
            write_volume(name + ".nii", b.value);
            write_volume(name + "_seg.nii", b.label);
        }
        write_file(*this / "small.arch.json",
                   R"([{"layer": "conv0", "kernel": 3, "dilation": 1, "out": 8},)"
                   R"({"activation": "relu"},)"
                   R"({"layer": "conv1", "kernel": 3, "dilation": 2, "out": 8},)"
                   R"({"activation": "relu"},)"
                   R"({"layer": "conv2", "kernel": 1, "dilation": 1, "out": 3}])");
        write_file(*this / "sites.csv", "# image, labels, site\n"
                                        "volumes/v0.nii,volumes/v0_seg.nii,north\n"
                                        "volumes/v1.nii,volumes/v1_seg.nii,south\n");
    }
    Words words(const std::string &verb = "train", const std::string &rounds = "2") const
    {
        return {"hone-fedref",  verb,
                "--model",      *this / "small.arch.json",
                "--data",       *this / "sites.csv",
                "--eval-split", "0.25",
                "--partition",  "group",
                "--clients",    "0",
                "--rounds",     rounds,
                "--patch",      "8",
                "--per-region", "4",
                "--batch-size", "2",
                "--optimizer",  "adamw",
                "--lr",         "0.02",
                "--intensity",  "zscore",
                "--threads",    "1",
                "--device",     test_device()};
    }
    /* With the balls' seeds for names and no sites: each volume is one. */
    Words folder(const std::string &verb = "train") const
    {
        Words w = words(verb);
        w[5] = *this / "volumes";
        return w;
    }
};

TEST(CliFedrefVolumes, SeveralRanksHaveTheBitsOfOne)
{
    const VolumePlace w;
    const Words run = w.words() + Words{"--sites", "2x1x1", "--data", w / "volumes"};
    expect_done(w.run(run + ranks(1) + w.to("one")));
    for (const int n : {2, 3}) {
        if (!enough(n)) continue;
        const std::string out = "many" + std::to_string(n);
        expect_done(w.run(run + ranks(n) + w.to(out)));
        EXPECT_EQ(w.rounds(out), w.rounds("one"));
    }
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    EXPECT_TRUE(w.model("many2") == w.model("one"));
}

TEST(CliFedrefVolumes, LambdaZeroIsFedavgByteForByte)
{
    const VolumePlace w;
    const Words run = w.words();
    const Words zero = {"--lambda1", "0", "--lambda2", "0"};
    const std::string want = w.trained("avg", run + fedavg);
    EXPECT_TRUE(w.trained("v3", run + Words{"--method", "fedref-v3"} + zero) == want);
    EXPECT_TRUE(w.trained("again", run + fedavg) == want);
    EXPECT_FALSE(w.trained("seed", run + fedavg + Words{"--seed", "1"}) == want);
    const Words on = {"--method", "fedref-v3", "--p", "1", "--lambda2", "0.1"};
    EXPECT_FALSE(w.trained("on", run + on) == want);
    EXPECT_FALSE(w.trained("prox", run + Words{"--method", "fedprox", "--mu", "1"}) == want);
}

TEST(CliFedrefVolumes, SitesAreClients)
{
    const VolumePlace w;
    const Ran listed = w.run(w.words("check"));
    expect_done(listed);
    EXPECT_NE(listed.out.find("north (4)"), std::string::npos) << listed.out;
    EXPECT_NE(listed.out.find("south (4)"), std::string::npos) << listed.out;
    EXPECT_NE(listed.out.find("2 of 2 clients"), std::string::npos) << listed.out;
    /* cut out of both volumes: eight regions, and clients that have patches of any */
    const Words cut = {"--sites", "2x1x2", "--scale-spread", "0.1", "--shift-spread", "0.1"};
    const Ran regions = w.run(w.folder("check") + cut);
    expect_done(regions);
    EXPECT_NE(regions.out.find("8 of 8 clients"), std::string::npos) << regions.out;
    Words mixed = w.folder("check") + cut;
    std::replace(mixed.begin(), mixed.end(), std::string("group"), std::string("iid"));
    *std::find(mixed.begin(), mixed.end(), "0") = "3"; /* clients */
    const Ran any = w.run(mixed);
    expect_done(any);
    EXPECT_NE(any.out.find("3 of 3 clients"), std::string::npos) << any.out;
}

/* Whatever stops it: the rounds and the model are those of a run in one go. */
TEST(CliFedrefVolumes, GoesOnWithTheSameBits)
{
    const VolumePlace w;
    const Words run = w.words("train", "4") + Words{"--method", "fedref-v3", "--p", "1"} +
                      Words{"--encoding", "topk", "--topk", "0.2"};
    const std::string want = w.trained("whole", run);
    expect_done(w.run(run + Words{"--stop-after", "1"} + w.to("parts")));
    expect_done(w.run(run + Words{"--stop-after", "3", "--resume", "auto"} + w.to("parts")));
    EXPECT_TRUE(w.trained("parts", run + Words{"--resume", "auto"}) == want);
    EXPECT_EQ(w.rounds("parts"), w.rounds("whole"));
    expect_refused(w.run(run + Words{"--resume", "auto", "--eval-split", "0.3"} + w.to("parts")), 2,
                   {"eval-split"});
}

/* The score goes up, is told in its own words, and is that of eval and of the exported folder. */
/* A round is a step of two clients, and a measurement that takes far longer: windows that overlap.
 * Also that of the last round. */
TEST(CliFedrefVolumes, ASignalIsHeardInAMeasurement)
{
    if (test_device() != std::string("cpu")) GTEST_SKIP() << "too fast to be met there";
    const VolumePlace w;
    const Words run = w.words("train", "3") +
                      Words{"--per-region", "1", "--window", "8", "--overlap", "0.9"} +
                      Words{"--eval-split", "0", "--eval-data", w / "volumes"};
    const std::string whole = w.trained("whole", run);
    for (const std::string behind : {"1", "2"}) {
        const std::string next = behind == "1" ? "2" : "3";
        const Words on = run + w.to(behind) + Words{"--resume", "auto"};
        Program p(on, w / "home");
        ASSERT_TRUE(p.says("round " + behind + "/3"));
        usleep(200000);
        p.kill(SIGTERM);
        const Ran r = p.wait();
        expect_done(r);
        EXPECT_TRUE(contains(r.out, "behind round " + next + " of 3, which is not measured"))
            << r.out;
        EXPECT_TRUE(std::isnan(w.column(behind, "dice").back()));
        expect_done(w.run(on));
        EXPECT_EQ(w.rounds(behind), w.rounds("whole"));
        EXPECT_TRUE(w.model(behind) == whole);
        EXPECT_FALSE(contains(read_file(w / (behind + "/checkpoint-3/fedref.json")), "unmeasured"));
        for (const char *figure : {"forgetting", "class_forgetting"})
            EXPECT_EQ(Json(w / (behind + "/result.json")).number(figure),
                      Json(w / "whole/result.json").number(figure));
    }
}

TEST(CliFedrefVolumes, LearnsAndSaysDice)
{
    const VolumePlace w;
    const Words run = w.words("train", "16") + fedavg +
                      Words{"--flip", "0.5", "--target", "0.3", "--epochs", "4"};
    const std::string model = w.trained("run", run);
    const auto dice = w.column("run", "dice"), mm = w.column("run", "hd95");
    ASSERT_EQ(dice.size(), 16u);
    EXPECT_GT(dice.back(), dice.front() + 0.1);
    EXPECT_LT(mm.back(), mm.front());
    const Json r(w / "run/result.json");
    EXPECT_NEAR(r.number("last_dice"), dice.back(), 1e-8);
    EXPECT_NEAR(r.number("last_hd95_mm"), mm.back(), 1e-6);
    EXPECT_GT(r.number("rounds_to_target"), 1);
    const Ran eval = w.run({"hone-fedref", "eval", "--run", w / "run"});
    expect_done(eval);
    EXPECT_NE(eval.out.find(", the same"), std::string::npos) << eval.out;
    EXPECT_NE(eval.out.find("class 2"), std::string::npos) << eval.out;
    expect_done(w.run({"hone-fedref", "report", "--run", w / "run"}));
    const Ran info = w.run({"hone-fedref", "info", "--run", w / "run"});
    expect_done(info);
    EXPECT_NE(info.out.find("conv2.weight"), std::string::npos) << info.out;
    /* from the folder, without a step: lr 0 keeps the values */
    Words again = w.words("train", "1") + fedavg + Words{"--lr", "0", "--flip", "0.5"};
    again[3] = w / "run-model";
    EXPECT_TRUE(w.trained("again", again) == model);
    EXPECT_EQ(w.column("again", "dice")[0], dice.back());
}

TEST(CliFedrefVolumes, TheHeadAloneTravels)
{
    const VolumePlace w;
    expect_done(w.run(w.words() + fedavg + Words{"--payload", "head"} + w.to("head")));
    const Json r(w / "head/result.json");
    EXPECT_EQ(r.number("payload_values"), 8 * 3 + 3);
    Words unet = w.words() + fedavg + Words{"--classes", "3", "--focal-weight", "1"};
    unet[3] = "unet3d-fets";
    expect_done(w.run(unet + w.to("unet")));
    EXPECT_EQ(w.column("unet", "used"), std::vector<double>(2, 2));
}

/* What is called meshnet5 in the folder where one works does not change what the name means. */
TEST(CliFedrefVolumes, AFolderDoesNotHideAnArchitecture)
{
    const VolumePlace w;
    Words run = w.words() + fedavg + Words{"--payload", "head"};
    run[3] = "meshnet5";
    const std::string in = w / ".";
    const auto there = [&in](const Words &words) { return Program(words, in, nullptr, in).wait(); };
    expect_done(there(run + Words{"--stop-after", "1", "--out", "meshnet5"}));
    expect_done(there(run + Words{"--resume", "auto", "--out", "meshnet5"}));
    const Ran eval = there({"hone-fedref", "eval", "--run", "meshnet5"});
    expect_done(eval);
    EXPECT_NE(eval.out.find(", the same"), std::string::npos) << eval.out;
    /* by that name in a folder: images, and no network of volumes */
    Words images = w.cnn() + w.to("none");
    images[3] = "unet3d-old/config.json";
    const Ran other = w.run(images);
    expect_refused(other, 2, {"unet3d-old/config.json"});
    EXPECT_EQ(other.err.find("no architecture"), std::string::npos) << other.err;
}

/* One volume or folder with labels of their own, and another that is held out: as a list of them.
 */
TEST(CliFedrefVolumes, HeldOutVolumesHaveLabelsOfTheirOwn)
{
    const VolumePlace w;
    write_file(w / "v0.csv", "volumes/v0.nii,volumes/v0_seg.nii\n");
    write_file(w / "v1.csv", "volumes/v1.nii,volumes/v1_seg.nii\n");
    const auto run = [&w](const std::string &data, const std::string &eval) {
        Words words = w.words("train", "1") + fedavg;
        words[5] = w / data, words[6] = "--eval-data", words[7] = w / eval;
        return words;
    };
    const std::string want = w.trained("list", run("v0.csv", "v1.csv"));
    const Words files =
        run("volumes/v0.nii", "volumes/v1.nii") + Words{"--labels", w / "volumes/v0_seg.nii"};
    const Words named = files + Words{"--eval-labels", w / "volumes/v1_seg.nii"};
    EXPECT_TRUE(w.trained("files", named) == want);
    EXPECT_EQ(w.column("files", "dice"), w.column("list", "dice"));
    expect_refused(w.run(files + w.to("none")), 2, {"v1.nii", "file of its labels"});
    expect_refused(w.run(w.words() + Words{"--eval-labels", "x"} + w.to("none")), 2,
                   {"--eval-labels", "--eval-data"});
}

TEST(CliFedrefVolumes, RefusesWhatHasNoMeaning)
{
    const VolumePlace w;
    const Words run = w.words() + w.to("none");
    expect_refused(w.run(run + Words{"--augment", "crop"}), 2, {"--augment", "segments volumes"});
    expect_refused(w.run(run + Words{"--groups", "g.txt"}), 2, {"--groups", "segments volumes"});
    expect_refused(w.run(run + Words{"--partition", "dirichlet"}), 2, {"dirichlet", "by classes"});
    expect_refused(w.run(run + Words{"--payload", "lora"}), 2, {"--payload lora", "full or head"});
    expect_refused(w.run(run + Words{"--payload", "sparse", "--optimizer", "adamw"}), 2,
                   {"--payload sparse", "full or head"});
    expect_refused(w.run(run + Words{"--lanes", "2"}), 2, {"--lanes", "segments volumes"});
    expect_refused(w.run(run + Words{"--simulate", "replicas"}), 2, {"--simulate replicas"});
    expect_refused(w.run(run + Words{"--focal-gamma", "1"}), 2,
                   {"--focal-gamma", "--focal-weight"});
    expect_refused(w.run(w.cnn() + Words{"--patch", "8"} + w.to("none")), 2,
                   {"--patch", "segments volumes"});
    EXPECT_FALSE(std::filesystem::exists(w / "none"));
}

TEST(CliFedrefVolumes, NamesWrongInput)
{
    const VolumePlace w;
    const Words run = w.words() + w.to("none");
    for (const char *size : {"8x8", "8x", "8x8x8x", "8x8x8x8", "x8", "8x0x8", "8 x8x8"})
        expect_refused(w.run(run + Words{"--patch", size}), 2,
                       {std::string("--patch ") + size + ": one length or three"});
    const Words folder = w.folder() + w.to("none");
    expect_refused(w.run(folder + Words{"--sites", "40"}), 2, {"40 sites along axis 0"});
    expect_refused(w.run(run + Words{"--sites", "2"}), 2, {"--sites", "v0", "already: north"});
    write_file(w / "one.csv", "volumes/v1.nii,volumes/v1_seg.nii\n");
    Words scanners = folder + Words{"--sites", "2x1x1", "--shift-spread", "1"};
    scanners = scanners + Words{"--eval-data", w / "one.csv", "--eval-split", "0"};
    expect_refused(w.run(scanners), 2, {"one.csv: 1 volumes, --data has 2"});
    expect_refused(w.run(run + Words{"--scale-spread", "0.1"}), 2, {"--sites cuts"});
    expect_refused(w.run(run + Words{"--eval-split", "0"}), 2, {"nothing is held out"});
    expect_refused(w.run(run + Words{"--relabel", "2:9"}), 2, {"/v0_seg.nii: voxel", "label 9"});
    Words small = run;
    small[3] = "unet3d-fets";
    expect_refused(w.run(small + Words{"--patch", "4"}), 2, {"--patch 4", "sides from 8"});
    expect_refused(w.run(small + Words{"--window", "4"}), 2, {"--window 4", "sides from 8"});
    Words unknown = run;
    unknown[3] = "unet3d-small";
    expect_refused(w.run(unknown), 2, {"unet3d-small", "meshnet20"});
    /* weights of another network */
    expect_done(w.run(w.words() + fedavg + w.to("five")));
    w.model("five");
    Words twenty = run + Words{"--weights", w / "five-model/model.safetensors"};
    twenty[3] = "meshnet20";
    expect_refused(w.run(twenty), 2, {"model.safetensors", "conv0.weight", "another shape"});
    /* a network of two channels for volumes of one */
    std::filesystem::create_directory(w / "two");
    std::string json = read_file(w / "five-model/segmenter.json");
    json.replace(json.find("\"channels\": 1"), 13, "\"channels\": 2");
    write_file(w / "two/segmenter.json", json);
    std::filesystem::copy_file(w / "five-model/model.safetensors", w / "two/model.safetensors");
    Words two = run;
    two[3] = w / "two";
    expect_refused(w.run(two), 2, {"/two: reads 2 channel(s)", "the volumes have 1"});
    expect_refused(w.run(run + Words{"--channels", "t1,seg"}), 2, {"'t1,seg'", "names like"});
    expect_refused(w.run(run + Words{"--channels", "t1,t2,t1"}), 2, {"t1 twice"});
    expect_refused(w.run(run + Words{"--channels", "t1,t2"}), 2,
                   {"/north: the name of a NIfTI file"}); /* its third column is of labels now */
    expect_refused(w.run(w.cnn() + Words{"--channels", "t1"} + w.to("none")), 2,
                   {"--channels", "segments volumes"});
    EXPECT_FALSE(std::filesystem::exists(w / "none"));
}

/* ---- channels ---- */

/* The volumes of VolumePlace as four files each: t1 is noise, t1ce its values, t2 is noise, flair
 * its values turned round. */
class ChannelPlace : public VolumePlace {
  public:
    ChannelPlace()
    {
        std::filesystem::create_directory(*this / "four");
        for (unsigned k = 0; k < 2; k++) {
            Balls b(k + 1), noise(k + 7);
            const std::string name = *this / ("four/s" + std::to_string(k));
            std::mt19937 rng(k);
            for (const char *channel : {"_t1.nii", "_t2.nii"}) {
                for (char &v : noise.value) v = (char)(1 + rng() % 200);
                write_volume(name + channel, noise.value);
            }
            write_volume(name + "_t1ce.nii", b.value);
            for (char &v : b.value) v = (char)(255 - (unsigned char)v);
            write_volume(name + "_flair.nii", b.value);
            write_volume(name + "_seg.nii", b.label);
        }
        std::string list = "# t1, t1ce, t2, flair, labels, site\n";
        for (const char *s : {"s0", "s1"})
            for (const char *what : {"_t1", "_t1ce", "_t2", "_flair", "_seg", ""})
                list += std::string(*what ? "four/" : "") + s + what + (*what ? ".nii," : "\n");
        write_file(*this / "four.csv", list);
    }
    /* The U-Net on all four of them. */
    Words four(const std::string &verb = "train", const std::string &rounds = "2") const
    {
        Words w = words(verb, rounds) + Words{"--channels", "t1,t1ce,t2,flair"};
        w[3] = "unet3d-fets";
        w[5] = *this / "four.csv";
        return w + Words{"--classes", "3"};
    }
};

TEST(CliFedrefVolumes, FourChannelsAreReadTogether)
{
    const ChannelPlace w;
    const Ran check = w.run(w.four("check"));
    expect_done(check);
    EXPECT_NE(check.out.find("s0 (4)"), std::string::npos) << check.out;
    EXPECT_NE((check.out + check.err).find("4 channels"), std::string::npos) << check.err;
    const std::string model = w.trained("run", w.four() + fedavg);
    EXPECT_EQ(w.column("run", "used"), std::vector<double>(2, 2));
    const Json settings(w / "run-model/segmenter.json");
    EXPECT_EQ(settings.number("channels"), 4);
    const Ran eval = w.run({"hone-fedref", "eval", "--run", w / "run"});
    expect_done(eval);
    EXPECT_NE(eval.out.find(", the same"), std::string::npos) << eval.out;
    /* out of a folder of the same files: each volume a site, as the list has it */
    Words folder = w.four();
    folder[5] = w / "four";
    EXPECT_TRUE(w.trained("folder", folder + fedavg) == model);
    /* channels in another order are other data: not this run's */
    Words turned = w.four() + fedavg + Words{"--resume", "auto"};
    *std::find(turned.begin(), turned.end(), "t1,t1ce,t2,flair") = "t1ce,t1,t2,flair";
    turned[5] = w / "four";
    expect_refused(w.run(turned + w.to("folder")), 2, {"another data"});
    /* in parts */
    const Words run = w.four() + fedavg;
    expect_done(w.run(run + Words{"--stop-after", "1"} + w.to("parts")));
    EXPECT_TRUE(w.trained("parts", run + Words{"--resume", "auto"}) == model);
    /* from the exported folder, whose channels are its own */
    Words again = w.words("train", "1") + fedavg + Words{"--lr", "0"};
    again[3] = w / "run-model", again[5] = w / "four.csv";
    EXPECT_TRUE(w.trained("again", again + Words{"--channels", "t1,t1ce,t2,flair"}) == model);
    expect_refused(w.run(again + Words{"--channels", "t1,t2"} + w.to("none")), 2,
                   {"run-model: reads 4 channel(s)", "have 2"});
}

TEST(CliFedrefVolumes, SitesThatAreCutHaveScannersForEveryChannel)
{
    const ChannelPlace w;
    Words cut = w.four() + fedavg + Words{"--sites", "1x1x2", "--scale-spread", "0.3"};
    cut[5] = w / "four";
    const std::string model = w.trained("cut", cut);
    EXPECT_EQ(w.column("cut", "used"), std::vector<double>(2, 4));
    EXPECT_FALSE(w.trained("wider", cut + Words{"--shift-spread", "0.3"}) == model);
}

/* A list with the t1ce column alone, named or not: the same run. */
TEST(CliFedrefVolumes, OneChannelNamedIsOneChannel)
{
    const ChannelPlace w;
    Words plain = w.words() + fedavg;
    write_file(w / "one.csv",
               "four/s0_t1ce.nii,four/s0_seg.nii,s0\nfour/s1_t1ce.nii,four/s1_seg.nii,s1\n");
    plain[5] = w / "one.csv";
    const std::string model = w.trained("plain", plain);
    Words named = plain + Words{"--channels", "t1ce"};
    EXPECT_TRUE(w.trained("named", named) == model);
    named[5] = w / "four";
    EXPECT_TRUE(w.trained("folder", named) == model);
}

TEST(CliFedrefVolumes, NamesChannelsThatDoNotFit)
{
    const ChannelPlace w;
    Words folder = w.four() + w.to("none");
    folder[5] = w / "four";
    hn_nifti_info info = {};
    info.nx = info.ny = SIDE, info.nz = 2;
    info.space.unit = 2;
    for (double &p : info.space.pixdim) p = 1;
    const std::string t2 = w / "four/s1_t2.nii", whole = read_file(t2);
    const std::vector<uint8_t> bytes(SIDE * SIDE * 2);
    ASSERT_HN_OK(hn_nifti_save_mask(t2.c_str(), &info, bytes.data()));
    expect_refused(w.run(folder), 2, {"s1_t2.nii: 18 x 18 x 2", "s1_t1.nii has 18 x 18 x 18"});
    std::filesystem::remove(t2);
    expect_refused(w.run(folder), 2, {"s1 has no channel t2 (s1_t2.nii[.gz])"});
    write_file(t2, whole);
    Words one = w.words() + fedavg + w.to("none");
    one[5] = w / "four.csv";
    expect_refused(w.run(one), 2, {"four.csv:2: more than 1 image"});
    EXPECT_FALSE(std::filesystem::exists(w / "none"));
}

} // namespace
