/* runtime/data/volumes: files to sets, intensities, labels. */
#include <algorithm>

#include "nifti_test.h"
#include "runtime/base/alloc.h"
#include "runtime/data/volumes.h"

namespace {

struct Set {
    hn_volumes v = {};
    hn_status status;
    explicit Set(const hn_volume_options &o) { status = hn_volumes_open(&o, &v); }
    Set(const std::string &data, hn_volume_options o = {})
    {
        o.data = data.c_str();
        status = hn_volumes_open(&o, &v);
    }
    Set(const Set &) = delete;
    ~Set() { hn_volumes_free(&v); }
    std::vector<std::string> names() const
    {
        std::vector<std::string> n;
        for (int64_t i = 0; i < v.count; i++) n.push_back(v.volume[i].name);
        return n;
    }
};

/* A 2 x 2 x 2 file of uint8 in the order of the file. */
NiftiFile cube(const std::vector<int> &values)
{
    NiftiFile f;
    f.dim = {3, 2, 2, 2, 1, 1, 1, 1};
    f.data = std::string(values.begin(), values.end());
    return f;
}

const NiftiFile kImage = cube({0, 1, 2, 3, 4, 5, 6, 7}), kLabel = cube({0, 0, 1, 4, 0, 2, 4, 4});

TEST(Volumes, PairsBesideEachOther)
{
    TempDir dir;
    write_file(dir / "b.nii", kImage.bytes());
    write_file(dir / "b_seg.nii.gz", gzip(kLabel.bytes()));
    write_file(dir / "a.nii.gz", gzip(kImage.bytes()));
    write_file(dir / "a_seg.nii", kLabel.bytes());
    write_file(dir / "notes.txt", "x");
    const Set s(dir.str());
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.names(), (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(s.v.n_classes, 5);
    EXPECT_EQ(s.v.n_bytes, 2 * 8 * 5);
    const hn_volume &v = s.v.volume[1];
    /* [x, y, z], z fastest: the file has x fastest */
    EXPECT_EQ(std::vector<float>(v.value, v.value + 8),
              (std::vector<float>{0, 4, 2, 6, 1, 5, 3, 7}));
    EXPECT_EQ(std::vector<uint8_t>(v.label, v.label + 8),
              (std::vector<uint8_t>{0, 0, 1, 4, 0, 2, 4, 4}));
    int64_t count[5];
    hn_volume_histogram(&v, 5, count);
    EXPECT_EQ(count[4], 3);
    EXPECT_EQ(count[3], 0);
    Lines lines;
    hn_volumes_report(&s.v, &lines.log);
    EXPECT_TRUE(lines.has("2 volume(s), 2 x 2 x 2 voxels of 1 x 1 x 1 mm")) << lines.text;
    EXPECT_TRUE(lines.has("4 37.50 %")) << lines.text;
}

TEST(Volumes, LabelsInAFolderOfTheirOwnAndRenamed)
{
    TempDir dir;
    std::filesystem::create_directory(dir / "i");
    std::filesystem::create_directory(dir / "l");
    write_file(dir / "i/a_seg.nii", kImage.bytes()); /* a name like any other here */
    write_file(dir / "l/a_seg.nii.gz", gzip(kLabel.bytes()));
    hn_relabel map[2];
    int n = 0;
    ASSERT_HN_OK(hn_relabel_parse("4:3,2:1", map, 2, &n));
    ASSERT_EQ(n, 2);
    hn_volume_options o = {};
    const std::string images = dir / "i", labels = dir / "l";
    o.data = images.c_str(), o.labels = labels.c_str();
    o.relabel = map, o.n_relabel = n, o.n_classes = 4;
    const Set s(o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(std::vector<uint8_t>(s.v.volume[0].label, s.v.volume[0].label + 8),
              (std::vector<uint8_t>{0, 0, 1, 3, 0, 1, 3, 3}));
    o.n_classes = 3;
    EXPECT_HN_FAIL(Set(o).status, HN_ERR_FORMAT, "/a_seg.nii.gz: voxel (0, 1, 1) has label 3");
    o.n_relabel = 0, o.n_classes = 4;
    EXPECT_HN_FAIL(Set(o).status, HN_ERR_FORMAT, "has label 4: there are 4 classes");
    o.n_classes = 257;
    EXPECT_HN_FAIL(Set(o).status, HN_ERR_ARG, "257 classes");
}

TEST(Volumes, AListNamesSites)
{
    TempDir dir;
    write_file(dir / "a,1.nii", kImage.bytes());
    write_file(dir / "l.nii", kLabel.bytes());
    write_file(dir / "list.tsv", "# image\tlabels\tsite\r\na,1.nii\tl.nii\tnorth\r\n\n" +
                                     (dir / "a,1.nii") + "\tl.nii\n");
    const Set s(dir / "list.tsv");
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    ASSERT_EQ(s.v.count, 2);
    EXPECT_STREQ(s.v.volume[0].site, "north");
    EXPECT_STREQ(s.v.volume[1].site, "");
    EXPECT_EQ(s.names()[1], "a,1");
    const auto list = [&](const std::string &text) {
        write_file(dir / "list.csv", text);
        return Set(dir / "list.csv").status;
    };
    EXPECT_HN_OK(list("l.nii,l.nii,south\n"));
    EXPECT_HN_FAIL(list("l.nii\n"), HN_ERR_FORMAT, "list.csv:1: no labels");
    EXPECT_HN_FAIL(list("\nl.nii,\n"), HN_ERR_FORMAT, "list.csv:2: no labels");
    EXPECT_HN_FAIL(list(",l.nii\n"), HN_ERR_FORMAT, "list.csv:1: no image");
    EXPECT_HN_FAIL(list("a,b,c,d\n"), HN_ERR_FORMAT, "list.csv:1: more than");
    EXPECT_HN_FAIL(list("# nothing\n"), HN_ERR_FORMAT, "without volumes");
    EXPECT_HN_FAIL(list(std::string("a,\0b", 4)), HN_ERR_FORMAT, "neither a NIfTI file nor a list");
    EXPECT_HN_FAIL(list("none.nii,l.nii\n"), HN_ERR_IO, "none.nii");
}

/* scripts/tables/fets_list.sh on a folder that is laid out as FeTS 2022 is. */
TEST(Volumes, TheListOfFetsIsRead)
{
    TempDir dir;
    for (const std::string s : {"F_0", "F_1", "F_2"}) {
        std::filesystem::create_directory(dir / s);
        for (const std::string what : {"_t1", "_t1ce", "_t2", "_flair"})
            write_file(dir / (s + "/" + s + what + ".nii.gz"), gzip(kImage.bytes()));
        write_file(dir / (s + "/" + s + "_seg.nii.gz"), gzip(kLabel.bytes()));
    }
    write_file(dir / "partitioning_1.csv", "Partition_ID,Subject_ID\r\n18,F_2\r\n3,F_0\r\n18,F_1");
    const std::string to = " > " + (dir / "list.tsv"),
                      call = "scripts/tables/fets_list.sh " + dir.str() + to;
    hn_volume_options o = {};
    ASSERT_HN_OK(hn_volume_channels_parse("t1,t1ce,t2,flair", &o.channels));
    ASSERT_EQ(std::system(call.c_str()), 0);
    const Set all(dir / "list.tsv", o);
    ASSERT_EQ(all.status, HN_OK) << hn_last_error();
    EXPECT_EQ(all.names(), (std::vector<std::string>{"F_2", "F_0", "F_1"}));
    EXPECT_EQ(all.v.channels, 4);
    EXPECT_STREQ(all.v.volume[0].site, "18");
    const std::string one = "scripts/tables/fets_list.sh " + dir.str() + " --modality flair" + to;
    ASSERT_EQ(std::system(one.c_str()), 0);
    const Set s(dir / "list.tsv");
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.names(), (std::vector<std::string>{"F_2_flair", "F_0_flair", "F_1_flair"}));
    EXPECT_STREQ(s.v.volume[0].site, "18");
    EXPECT_STREQ(s.v.volume[1].site, "3");
    std::filesystem::remove(dir / "F_0/F_0_t2.nii.gz");
    EXPECT_EQ(std::system(one.c_str()), 0);
    EXPECT_NE(std::system((call + " 2>/dev/null").c_str()), 0);
    write_file(dir / "F_0/F_0_t2.nii.gz", gzip(kImage.bytes()));
    EXPECT_EQ(std::system(call.c_str()), 0);
    std::filesystem::remove(dir / "F_0/F_0_seg.nii.gz");
    EXPECT_NE(std::system((call + " 2>/dev/null").c_str()), 0);
}

/* ---- channels ---- */

hn_volume_channels channels_of(const char *text)
{
    hn_volume_channels c = {};
    EXPECT_HN_OK(hn_volume_channels_parse(text, &c));
    return c;
}

/* A subject in a folder: t1 counts 0 .. 7 in the order of its file, t2 down from 107. */
void write_subject(const std::string &start)
{
    write_file(start + "_t1.nii", kImage.bytes());
    write_file(start + "_t2.nii.gz", gzip(cube({107, 106, 105, 104, 103, 102, 101, 100}).bytes()));
    write_file(start + "_seg.nii", kLabel.bytes());
}

TEST(Volumes, ChannelsAreFilesOfOneName)
{
    TempDir dir;
    write_subject(dir / "b");
    write_subject(dir / "a");
    write_file(dir / "a_flair.nii", "no channel of these: not read");
    hn_volume_options o = {};
    o.channels = channels_of("t1,t2");
    const Set s(dir.str(), o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.names(), (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(s.v.channels, 2);
    EXPECT_EQ(s.v.n_bytes, 2 * 8 * 9);
    const hn_volume &v = s.v.volume[1];
    EXPECT_EQ(v.channels, 2);
    /* [x, y, z, channel], the channel fastest */
    EXPECT_EQ(std::vector<float>(v.value, v.value + 16),
              (std::vector<float>{0, 107, 4, 103, 2, 105, 6, 101, 1, 106, 5, 102, 3, 104, 7, 100}));
    EXPECT_EQ(v.label[2], 1);
    Lines lines;
    hn_volumes_report(&s.v, &lines.log);
    EXPECT_TRUE(lines.has("voxels of 1 x 1 x 1 mm, 2 channels")) << lines.text;
    /* the same out of a list, with sites; the order of channels counts */
    write_file(dir / "list.tsv", "a_t1.nii\ta_t2.nii.gz\ta_seg.nii\n"
                                 "b_t1.nii\tb_t2.nii.gz\tb_seg.nii\t\n");
    const Set listed(dir / "list.tsv", o);
    ASSERT_EQ(listed.status, HN_OK) << hn_last_error();
    EXPECT_STREQ(listed.v.digest, s.v.digest);
    EXPECT_EQ(listed.names(), s.names());
    o.channels = channels_of("t2,t1");
    const Set turned(dir.str(), o);
    ASSERT_EQ(turned.status, HN_OK) << hn_last_error();
    EXPECT_EQ(turned.v.volume[0].value[0], 107);
    EXPECT_STRNE(turned.v.digest, s.v.digest);
    /* labels in a folder of their own; none */
    std::filesystem::create_directory(dir / "l");
    write_file(dir / "l/a.nii", kLabel.bytes());
    write_file(dir / "l/b.nii", kLabel.bytes());
    const std::string own = dir / "l";
    o.channels = channels_of("t1,t2"), o.labels = own.c_str();
    const Set apart(dir.str(), o);
    ASSERT_EQ(apart.status, HN_OK) << hn_last_error();
    EXPECT_STREQ(apart.v.digest, s.v.digest);
    o.labels = nullptr, o.unlabelled = true;
    const Set bare(dir.str(), o);
    ASSERT_EQ(bare.status, HN_OK) << hn_last_error();
    EXPECT_EQ(bare.v.n_bytes, 2 * 8 * 8);
}

TEST(Volumes, OneNamedChannelIsOneWithoutAName)
{
    TempDir dir;
    write_subject(dir / "a");
    write_file(dir / "list.csv", "a_t1.nii,a_seg.nii\n");
    hn_volume_options o = {};
    const Set plain(dir / "list.csv", o);
    o.channels = channels_of("t1");
    const Set named(dir.str(), o), listed(dir / "list.csv", o);
    ASSERT_EQ(plain.status, HN_OK) << hn_last_error();
    ASSERT_EQ(named.status, HN_OK) << hn_last_error();
    EXPECT_EQ(named.v.channels, 1);
    EXPECT_STREQ(named.v.digest, plain.v.digest);
    EXPECT_STREQ(listed.v.digest, plain.v.digest);
    EXPECT_STREQ(named.v.volume[0].name, "a");
}

TEST(Volumes, EachChannelIsPreparedOnItsOwn)
{
    TempDir dir;
    write_subject(dir / "a");
    hn_volume_options o = {};
    o.channels = channels_of("t1,t2"), o.intensity = HN_INTENSITY_MINMAX;
    const Set s(dir.str(), o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    for (int i = 0; i < 8; i++) {
        const float *v = s.v.volume[0].value + 2 * i;
        const float first = (float)(i / 4 + i / 2 % 2 * 2 + i % 2 * 4); /* as stored */
        EXPECT_EQ(v[0], (float)(first / 7.0));
        EXPECT_EQ(v[1], (float)((7 - first) / 7.0));
    }
}

TEST(Volumes, OfTwoChannelNamesTheLongerFits)
{
    TempDir dir;
    for (const char *name : {"a_t1", "a_post_t1", "a_seg"})
        write_file(dir / (name + std::string(".nii")), kImage.bytes());
    hn_volume_options o = {};
    o.channels = channels_of("t1,post_t1");
    const Set s(dir.str(), o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.names(), (std::vector<std::string>{"a"}));
}

TEST(Volumes, LabelsLieWhereTheirVolumeDoes)
{
    TempDir dir;
    write_file(dir / "a.nii", kImage.bytes());
    const auto with = [&](const NiftiFile &f, int32_t classes = 0) {
        hn_volume_options o = {};
        o.n_classes = classes;
        write_file(dir / "a_seg.nii", f.bytes());
        return Set(dir.str(), o).status;
    };
    EXPECT_HN_OK(with(kLabel));
    NiftiFile f = kLabel;
    f.pixdim[2] = 3;
    EXPECT_HN_FAIL(with(f), HN_ERR_SHAPE, "a_seg.nii: voxels of 1 x 3 x 1 mm");
    f = kLabel;
    f.sform = 1;
    for (int i = 0; i < 3; i++) f.srow[i][i] = 1;
    EXPECT_HN_OK(with(f));
    f.srow[2][3] = 0.5;
    EXPECT_HN_FAIL(with(f), HN_ERR_SHAPE, "a_seg.nii: voxels lie up to 0.5 mm from where");
    f.srow[2][3] = 1, f.srow[2][2] = -1; /* turned round */
    EXPECT_HN_FAIL(with(f), HN_ERR_SHAPE, "the voxels and the labels of a volume have one place");
    EXPECT_HN_FAIL(with(kLabel, 2), HN_ERR_FORMAT, "/a_seg.nii: voxel (");
}

/* Before any of them is read: distances are in mm. */
TEST(Volumes, VoxelsOfNoSizeAreRefused)
{
    TempDir dir;
    NiftiFile f = kImage;
    f.pixdim[1] = 2e6f;
    write_file(dir / "a.nii", f.bytes());
    write_file(dir / "a_seg.nii", kLabel.bytes());
    EXPECT_HN_FAIL(Set(dir.str()).status, HN_ERR_FORMAT, "/a.nii: voxels of 2e+06 mm");
}

TEST(Volumes, ChannelsHaveOneShapeAndPlace)
{
    TempDir dir;
    write_subject(dir / "a");
    hn_volume_options o = {};
    o.channels = channels_of("t1,t2");
    const auto with = [&](const NiftiFile &f) {
        write_file(dir / "a_t2.nii.gz", gzip(f.bytes()));
        return Set(dir.str(), o).status;
    };
    EXPECT_HN_FAIL(with(counting_file()), HN_ERR_SHAPE, "a_t2.nii.gz: 4 x 3 x 2 voxels");
    EXPECT_HN_FAIL(with(counting_file()), HN_ERR_SHAPE, "a_t1.nii has 2 x 2 x 2");
    NiftiFile f = kImage;
    f.pixdim[2] = 1.5;
    EXPECT_HN_FAIL(with(f), HN_ERR_SHAPE, "a_t2.nii.gz: voxels of 1 x 1.5 x 1 mm");
    f = kImage;
    f.sform = 1;
    for (int i = 0; i < 3; i++) f.srow[i][i] = 1;
    f.srow[1][3] = 0.005; /* within a hundredth of a voxel */
    EXPECT_HN_OK(with(f));
    f.srow[1][3] = 0.5;
    EXPECT_HN_FAIL(with(f), HN_ERR_SHAPE, "a_t2.nii.gz: voxels lie up to 0.5 mm from where");
    f.srow[1][3] = 0, f.srow[0][0] = -1; /* turned round */
    EXPECT_HN_FAIL(with(f), HN_ERR_SHAPE, "one place in space");
    f = kImage;
    f.type = 16, f.bits = 32, f.data.clear();
    for (int i = 0; i < 8; i++) f.add(i == 3 ? NAN : (float)i);
    EXPECT_HN_FAIL(with(f), HN_ERR_FORMAT, "a_t2.nii.gz: voxel (1, 1, 0) is NaN");
}

TEST(Volumes, ChannelsThatAreNotThereAreNamed)
{
    TempDir dir;
    write_subject(dir / "a");
    write_subject(dir / "b");
    hn_volume_options o = {};
    o.channels = channels_of("t1,t2,flair");
    EXPECT_HN_FAIL(Set(dir.str(), o).status, HN_ERR_ARG, "a has no channel flair (a_flair.nii");
    o.channels = channels_of("t9");
    EXPECT_HN_FAIL(Set(dir.str(), o).status, HN_ERR_ARG, "labels without their volume");
    o.unlabelled = true;
    EXPECT_HN_FAIL(Set(dir.str(), o).status, HN_ERR_ARG, "no volume that has a channel t9");
    o.unlabelled = false, o.channels = channels_of("t1,t2");
    write_file(dir / "b_t2.nii", kImage.bytes());
    EXPECT_HN_FAIL(Set(dir.str(), o).status, HN_ERR_ARG, "which one?");
    std::filesystem::remove(dir / "b_t2.nii");
    std::filesystem::remove(dir / "b_t2.nii.gz");
    EXPECT_HN_FAIL(Set(dir.str(), o).status, HN_ERR_ARG, "b has no channel t2");
    std::filesystem::remove(dir / "b_t1.nii");
    EXPECT_HN_FAIL(Set(dir.str(), o).status, HN_ERR_ARG, "b_seg.nii: labels without");
    std::filesystem::remove(dir / "b_seg.nii");
    EXPECT_EQ(Set(dir.str(), o).status, HN_OK) << hn_last_error();
    o.max_bytes = 71;
    EXPECT_HN_FAIL(Set(dir.str(), o).status, HN_ERR_FORMAT, "the limit of 71 bytes");
    o.max_bytes = 0;
    std::filesystem::remove(dir / "a_seg.nii");
    EXPECT_HN_FAIL(Set(dir.str(), o).status, HN_ERR_ARG, "its labels a_seg.nii[.gz]");
    EXPECT_HN_FAIL(Set(dir / "a_t1.nii", o).status, HN_ERR_ARG, "one file has no channels");
    const auto list = [&](const std::string &text) {
        write_file(dir / "list.csv", text);
        return Set(dir / "list.csv", o).status;
    };
    EXPECT_HN_FAIL(list("a_t1.nii\n"), HN_ERR_FORMAT, "list.csv:1: no image of channel t2");
    EXPECT_HN_FAIL(list("a_t1.nii,,a_seg.nii,n\n"), HN_ERR_FORMAT, "no image of channel t2");
    EXPECT_HN_FAIL(list("a_t1.nii,a_t2.nii.gz\n"), HN_ERR_FORMAT, "list.csv:1: no labels");
    EXPECT_HN_FAIL(list("a,b,c,d,e\n"), HN_ERR_FORMAT, "more than 2 image(s)");
    EXPECT_HN_FAIL(list("a_t1.nii,none.nii,a_seg.nii\n"), HN_ERR_IO, "none.nii");
}

TEST(Volumes, ChannelsSayWhatTheyWant)
{
    hn_volume_channels c = {};
    c.n = 9;
    for (const char *bad : {",", "t1,", ",t1", "t1,,t2", "t1 ,t2", "a/b", "seg", "x_seg", "t1,t1",
                            "abcdefghijklmnopqrstuvwxyz0123456", "a,b,c,d,e,f,g,h,i"})
        EXPECT_EQ(hn_volume_channels_parse(bad, &c), HN_ERR_ARG) << bad;
    EXPECT_EQ(c.n, 9);
    EXPECT_EQ(channels_of("").n, 0);
    c = channels_of("a,b,c,d,e,f,g,T1-w_2.0");
    EXPECT_EQ(c.n, 8);
    EXPECT_STREQ(c.name[7], "T1-w_2.0");
}

TEST(Volumes, OneFileAndItsLabels)
{
    TempDir dir;
    const std::string image = dir / "a.nii", label = dir / "x.nii";
    write_file(image, kImage.bytes());
    write_file(label, kLabel.bytes());
    hn_volume_options o = {};
    o.data = image.c_str();
    EXPECT_HN_FAIL(Set(o).status, HN_ERR_ARG, "the file of its labels must be named");
    o.unlabelled = true;
    {
        const Set s(o);
        ASSERT_EQ(s.status, HN_OK) << hn_last_error();
        EXPECT_EQ(s.v.volume[0].label, nullptr);
        EXPECT_EQ(s.v.n_classes, 0);
        EXPECT_FALSE(s.v.labelled);
    }
    o.labels = label.c_str();
    EXPECT_HN_FAIL(Set(o).status, HN_ERR_ARG, "labels for volumes without labels");
    o.unlabelled = false;
    const Set s(o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.v.n_classes, 5);
    o.max_bytes = 39;
    EXPECT_HN_FAIL(Set(o).status, HN_ERR_FORMAT, "more than the limit of 39 bytes");
    o.max_bytes = 0, o.volume = 1;
    EXPECT_HN_FAIL(Set(o).status, HN_ERR_ARG, "volume 1");
}

TEST(Volumes, NamesWhatDoesNotFit)
{
    TempDir dir;
    EXPECT_HN_FAIL(Set(dir.str()).status, HN_ERR_ARG, "no .nii, .nii.gz or .hdr file");
    EXPECT_HN_FAIL(Set(dir / "none").status, HN_ERR_IO, "none");
    EXPECT_HN_FAIL(Set(hn_volume_options{}).status, HN_ERR_ARG, "no volumes are named");
    write_file(dir / "a.nii", kImage.bytes());
    EXPECT_HN_FAIL(Set(dir.str()).status, HN_ERR_ARG, "a.nii: its labels a_seg.nii[.gz]");
    write_file(dir / "a_seg.nii", cube({0}).bytes());
    EXPECT_HN_FAIL(Set(dir.str()).status, HN_ERR_FORMAT, "a_seg.nii: cut off");
    NiftiFile other = counting_file();
    write_file(dir / "a_seg.nii", other.bytes());
    EXPECT_HN_FAIL(Set(dir.str()).status, HN_ERR_SHAPE, "labels of 4 x 3 x 2 x 1");
    write_file(dir / "a_seg.nii", kLabel.bytes());
    EXPECT_EQ(Set(dir.str()).status, HN_OK) << hn_last_error();
    write_file(dir / "a_seg.nii.gz", gzip(kLabel.bytes()));
    EXPECT_HN_FAIL(Set(dir.str()).status, HN_ERR_ARG, "which one?");
    std::filesystem::remove(dir / "a_seg.nii.gz");
    write_file(dir / "b_seg.nii", kLabel.bytes());
    EXPECT_HN_FAIL(Set(dir.str()).status, HN_ERR_ARG, "labels without their volume");
    std::filesystem::remove(dir / "b_seg.nii");
    NiftiFile nan;
    nan.dim = {3, 2, 2, 2, 1, 1, 1, 1}, nan.type = 16, nan.bits = 32;
    for (int i = 0; i < 8; i++) nan.add(i == 3 ? NAN : (float)i);
    write_file(dir / "a.nii", nan.bytes());
    EXPECT_HN_FAIL(Set(dir.str()).status, HN_ERR_FORMAT, "/a.nii: voxel (1, 1, 0) is NaN");
}

TEST(Volumes, RelabelSaysWhatItWants)
{
    hn_relabel r[2];
    int n = 9;
    for (const char *bad : {"4", "4:", ":3", "4:3,", "4:3;2:1", "256:1", "1:256", "-1:2", "4:3,4:2",
                            "4:3 ", "1:2,2:3,3:4"})
        EXPECT_EQ(hn_relabel_parse(bad, r, 2, &n), HN_ERR_ARG) << bad;
    EXPECT_EQ(n, 9);
    ASSERT_HN_OK(hn_relabel_parse("", r, 2, &n));
    EXPECT_EQ(n, 0);
}

TEST(Volumes, DigestTellsSetsApart)
{
    float value[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    uint8_t label[8] = {0, 1, 0, 1, 0, 1, 0, 1};
    hn_volume v = {};
    v.name = "v", v.site = "", v.value = value, v.label = label;
    v.size[0] = v.size[1] = v.size[2] = 2;
    const auto digest = [&](int32_t classes = 0) {
        hn_volumes s = {};
        EXPECT_HN_OK(hn_volumes_make(&v, 1, classes, &s));
        const std::string d = s.digest;
        hn_volumes_free(&s);
        return d;
    };
    const std::string first = digest();
    EXPECT_EQ(first.size(), 64u);
    EXPECT_EQ(digest(), first);
    EXPECT_NE(digest(3), first);
    value[7] = 8;
    const std::string second = digest();
    EXPECT_NE(second, first);
    label[1] = 0;
    EXPECT_NE(digest(), second);
    hn_volumes s = {};
    value[0] = INFINITY;
    EXPECT_HN_FAIL(hn_volumes_make(&v, 1, 0, &s), HN_ERR_FORMAT, "v: voxel (0, 0, 0)");
    v.size[1] = 0;
    EXPECT_HN_FAIL(hn_volumes_make(&v, 1, 0, &s), HN_ERR_SHAPE, "axis 1");
    EXPECT_HN_FAIL(hn_volumes_make(&v, 0, 0, &s), HN_ERR_ARG, "0 volumes");
}

int failing_allocations(const std::string &data, const hn_volume_options &o)
{
    int failures = 0;
    for (uint64_t nth = 1; nth < 300; nth++, failures++) {
        hn_alloc_fail_at(nth);
        const Set s(data, o);
        hn_alloc_fail_at(0);
        if (s.status == HN_OK) break;
        EXPECT_EQ(s.status, HN_ERR_MEMORY) << hn_last_error();
    }
    return failures;
}

TEST(Volumes, EveryFailingAllocationIsReported)
{
    TempDir dir, two;
    write_file(dir / "a.nii", kImage.bytes());
    write_file(dir / "a_seg.nii.gz", gzip(kLabel.bytes()));
    write_subject(two / "a");
    hn_volume_options o = {};
    const int one = failing_allocations(dir.str(), o);
    EXPECT_GT(one, 20);
    EXPECT_LT(one, 290);
    o.channels = channels_of("t1,t2");
    const int both = failing_allocations(two.str(), o);
    EXPECT_GT(both, one);
    EXPECT_LT(both, 290);
}

/* ---- intensities ---- */

std::vector<float> prepared(hn_intensity how, std::vector<float> v)
{
    hn_intensity_apply(how, v.data(), (int64_t)v.size());
    return v;
}

TEST(VolumeIntensity, ByHand)
{
    EXPECT_EQ(prepared(HN_INTENSITY_NONE, {3, -1}), (std::vector<float>{3, -1}));
    EXPECT_EQ(prepared(HN_INTENSITY_MINMAX, {3, -1, 1}), (std::vector<float>{1, 0, 0.5f}));
    EXPECT_EQ(prepared(HN_INTENSITY_MINMAX, {5, 5}), (std::vector<float>{0, 0}));
    /* mean 4, deviation sqrt(((2-4)^2 + (6-4)^2) / 2) = 2; zeros stay */
    EXPECT_EQ(prepared(HN_INTENSITY_ZSCORE, {0, 2, 6, 0}), (std::vector<float>{0, -1, 1, 0}));
    EXPECT_EQ(prepared(HN_INTENSITY_ZSCORE, {0, 7, 7}), (std::vector<float>{0, 0, 0}));
    EXPECT_EQ(prepared(HN_INTENSITY_ZSCORE, {0, 0}), (std::vector<float>{0, 0}));
    EXPECT_EQ(prepared(HN_INTENSITY_QUANTILE, {9}), (std::vector<float>{0}));
    EXPECT_EQ(prepared(HN_INTENSITY_MINMAX, {-3e38f, 3e38f, 0}), (std::vector<float>{0, 1, 0.5f}));
}

/* Against a sort, with negative numbers, equal ones and both zeros. */
TEST(VolumeIntensity, QuantilesAreThoseOfASort)
{
    for (size_t n : {2u, 19u, 20u, 21u, 1000u, 4099u}) {
        std::vector<float> v = normal_f32(n, (unsigned)n, 0.2f, 3);
        for (size_t i = 0; i < n; i += 5) v[i] = std::round(v[i]);
        for (size_t i = 0; i < n; i += 7) v[i] = i % 2 ? -0.0f : 1e-40f;
        std::vector<float> sorted = v;
        std::sort(sorted.begin(), sorted.end());
        const double low = sorted[(size_t)std::floor(0.05 * (double)n)];
        const double high = sorted[(size_t)std::ceil(0.95 * (double)n) - 1];
        const auto got = prepared(HN_INTENSITY_QUANTILE, v);
        for (size_t i = 0; i < n; i++)
            ASSERT_EQ(got[i], high > low ? (float)((v[i] - low) / (high - low)) : 0)
                << n << " " << i;
    }
}

TEST(VolumeIntensity, Names)
{
    hn_intensity i = HN_INTENSITY_NONE;
    ASSERT_HN_OK(hn_intensity_parse("quantile", &i));
    EXPECT_EQ(i, HN_INTENSITY_QUANTILE);
    EXPECT_HN_FAIL(hn_intensity_parse("max", &i), HN_ERR_ARG, HN_INTENSITIES);
}

} // namespace
