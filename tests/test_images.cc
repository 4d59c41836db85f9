/* runtime/data/images: idx, CIFAR; splits, classes, joining, damage; real data. */
#include <filesystem>
#include <set>

#include "hn_test.h"
#include "image_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/save.h"

namespace fs = std::filesystem;

namespace {

using Ints = std::vector<int32_t>;
using Names = std::vector<std::string>;

// ---- idx ----

/* name: "train-images-idx3-ubyte" and its labels. */
void write_mnist(const std::string &folder, const std::string &word, const std::vector<int> &labels,
                 unsigned seed, bool packed)
{
    fs::create_directories(folder);
    const std::string images = idx_images((uint32_t)labels.size(), 3, 2, seed);
    const std::string text = idx_labels(labels), end = packed ? ".gz" : "";
    write_file(folder + "/" + word + "-images-idx3-ubyte" + end, packed ? gzip(images) : images);
    write_file(folder + "/" + word + "-labels-idx1-ubyte" + end, packed ? gzip(text) : text);
}

TEST(Idx, ReadsPlainAndPackedFilesAlike)
{
    const TempDir d;
    write_mnist(d / "plain", "train", {0, 2, 1, 2}, 1, false);
    write_mnist(d / "packed", "train", {0, 2, 1, 2}, 1, true);
    const ImageSets plain(d / "plain"), packed(d / "packed");
    ASSERT_EQ(plain.status, HN_OK) << hn_last_error();
    ASSERT_EQ(packed.status, HN_OK) << hn_last_error();
    EXPECT_EQ(plain.eval, nullptr);
    const hn_images *v = plain.t();
    EXPECT_EQ(v->count, 4);
    EXPECT_EQ(v->h, 3);
    EXPECT_EQ(v->w, 2);
    EXPECT_EQ(v->c, 1);
    EXPECT_EQ(v->n_classes, 3);
    EXPECT_EQ(names_of(v), (Names{"0", "1", "2"}));
    EXPECT_EQ(labels_of(v), (Ints{0, 2, 1, 2}));
    EXPECT_EQ(bytes_of(v), pixels(24, 1));
    EXPECT_EQ(bytes_of(packed.t()), pixels(24, 1));
    EXPECT_STREQ(hn_image_set_digest(plain.train), hn_image_set_digest(packed.train));
}

TEST(Idx, FindsThePartsOfAFolder)
{
    const TempDir d;
    write_mnist(d.str(), "train", {0, 1}, 1, true);
    write_mnist(d.str(), "t10k", {1, 1, 0}, 2, false);
    const ImageSets test(d.str());
    ASSERT_EQ(test.status, HN_OK) << hn_last_error();
    EXPECT_EQ(test.t()->count, 2);
    EXPECT_EQ(test.e()->count, 3);
    write_mnist(d.str(), "val", {1}, 3, true);
    const ImageSets val(d.str()); /* validation data come before test data */
    ASSERT_EQ(val.status, HN_OK) << hn_last_error();
    EXPECT_EQ(bytes_of(val.e()), pixels(6, 3));
    hn_image_options o = {};
    o.eval_data = "test"; /* the other part by its word */
    const ImageSets named(d.str(), o);
    ASSERT_EQ(named.status, HN_OK) << hn_last_error();
    EXPECT_EQ(bytes_of(named.e()), pixels(18, 2));
    o.eval_data = "dev";
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_ARG, "dev: no images there");
    const std::string file = d / "t10k-images-idx3-ubyte";
    o.eval_data = file.c_str();
    const ImageSets by_file(d / "train-images-idx3-ubyte.gz", o);
    ASSERT_EQ(by_file.status, HN_OK) << hn_last_error();
    EXPECT_EQ(bytes_of(by_file.e()), pixels(18, 2));
}

TEST(Idx, PrefersThePlainFileOfTwo)
{
    const TempDir d;
    write_mnist(d.str(), "train", {0, 1}, 1, true);
    write_mnist(d.str(), "train", {0, 1}, 2, false);
    const ImageSets s(d.str());
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(bytes_of(s.t()), pixels(12, 2));
}

TEST(Idx, ReadsWideLabelsAndChannels)
{
    const TempDir d;
    write_file(d / "images-idx4-ubyte", idx(8, {2, 2, 2, 3}, pixels(24, 5)));
    write_file(d / "labels-idx1-short", idx(0x0b, {2}, std::string("\x01\x2c\0\x05", 4)));
    const ImageSets s(d.str());
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.t()->c, 3);
    EXPECT_EQ(labels_of(s.t()), (Ints{300, 5}));
    EXPECT_EQ(s.t()->n_classes, 301);
    fs::remove(d / "labels-idx1-short");
    write_file(d / "labels-idx1-int", idx(0x0c, {2}, std::string("\0\0\0\x01\0\0\0\0", 8)));
    const ImageSets four(d.str());
    ASSERT_EQ(four.status, HN_OK) << hn_last_error();
    EXPECT_EQ(labels_of(four.t()), (Ints{1, 0}));
}

TEST(Idx, TakesNamesFromAFile)
{
    const TempDir d;
    write_mnist(d.str(), "train", {0, 1}, 1, false);
    write_file(d / "classes.txt", "shirt\r\nankle boot\n\n");
    const ImageSets s(d.str());
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(names_of(s.t()), (Names{"shirt", "ankle boot"}));
    EXPECT_EQ(hn_image_set_class(s.train, "ankle boot"), 1);
    EXPECT_EQ(hn_image_set_class(s.train, "1"), 1);
    EXPECT_EQ(hn_image_set_class(s.train, "2"), -1);
    EXPECT_EQ(hn_image_set_class(s.train, "boot"), -1);
    EXPECT_EQ(hn_image_set_class(s.train, "-1"), -1);
    write_file(d / "classes.txt", "shirt\n");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "image 1: label 1 is not in 0..0");
    write_file(d / "classes.txt", "shirt\nshirt\n");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "'shirt' stands twice");
    write_file(d / "classes.txt", "shirt\n\nboot\n");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "classes.txt:2: an empty name");
    write_file(d / "classes.txt", "");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "0 names of classes");
}

TEST(Idx, RefusesDamage)
{
    const TempDir d;
    const std::string images = d / "train-images-idx3-ubyte",
                      labels = d / "train-labels-idx1-ubyte";
    const std::string good = idx_images(2, 3, 2, 1);
    const auto fails = [&](const std::string &bytes, hn_status code, const char *part) {
        write_file(images, bytes);
        EXPECT_HN_FAIL(ImageSets(d.str()).status, code, part);
        EXPECT_NE(std::strstr(hn_last_error(), images.c_str()), nullptr) << hn_last_error();
        if (bytes.empty()) return;
        fs::remove(images);
        write_file(images + ".gz", gzip(bytes));
        EXPECT_HN_FAIL(ImageSets(d.str()).status, code, images.c_str());
        fs::remove(images + ".gz");
    };
    write_file(labels, idx_labels({0, 1}));
    fails("", HN_ERR_FORMAT, "cut off inside the idx header");
    fails(good.substr(0, 3), HN_ERR_FORMAT, "cut off inside the idx header");
    fails(good.substr(0, 15), HN_ERR_FORMAT, "cut off inside the idx header");
    fails(good.substr(0, good.size() - 1), HN_ERR_FORMAT, "the file is cut off");
    fails(good + "x", HN_ERR_FORMAT, "28");
    fails("PK" + good.substr(2), HN_ERR_FORMAT, "not idx: begins with 50 4b 08 03");
    fails(idx(7, {2, 3, 2}, pixels(12, 1)), HN_ERR_FORMAT, "begins with 00 00 07 03");
    fails(idx(8, {12}, pixels(12, 1)), HN_ERR_FORMAT, "type 0x08 with 1 dimensions");
    fails(idx(13, {1, 3, 1}, pixels(12, 1)), HN_ERR_FORMAT, "type 0x0d");
    fails(idx(8, {0, 3, 2}, ""), HN_ERR_FORMAT, "0 images");
    fails(idx(8, {2, 0, 2}, ""), HN_ERR_FORMAT, "images of 2 x 0 pixels");
    fails(idx(8, {2, 1, 1, 6}, pixels(12, 1)), HN_ERR_FORMAT, "6 channels");
    fails(idx(8, {0xffffffff, 0xffffffff, 0xffffffff, 4}, ""), HN_ERR_FORMAT, "cut off");
    fails(idx(8, {0xffffffff, 0xffffffff, 0xffffffff}, ""), HN_ERR_FORMAT, "cut off");
    write_file(images, idx_images(3, 3, 2, 1));
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT,
                   "labels-idx1-ubyte: 2 labels for 3 images");
    write_file(images, good);
    write_file(labels, idx_labels({0, 1}).substr(0, 9));
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "the file is cut off");
    write_file(labels, idx(8, {2, 1}, pixels(2, 1)));
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "2 dimension(s)");
    write_file(labels, idx(0x0b, {2}, std::string("\xff\xff\0\0", 4)));
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "image 0: label -1");
    fs::remove(labels);
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_ARG, "its labels");
    EXPECT_HN_FAIL(ImageSets(d / "nothing").status, HN_ERR_IO, "No such file");
    write_file(labels, idx_labels({0, 1}));
    write_file(d / "train-labels-2-idx1-ubyte", idx_labels({0, 1}));
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_ARG, "are both labels");
}

/* A packed file of some KiB must not become gigabytes of memory. */
TEST(Idx, RefusesBombs)
{
    const TempDir d;
    write_file(d / "labels-idx1-ubyte", idx_labels({0, 1}));
    write_file(d / "images-idx3-ubyte.gz", gzip(idx(8, {2, 3, 2}, std::string(8 << 20, '\0'))));
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT,
                   "decompresses to more than 28 bytes, as its header promises");
    hn_image_options o = {};
    o.limits.max_bytes = 1 << 20;
    write_file(d / "images-idx3-ubyte.gz",
               gzip(idx(8, {2, 4096, 1024}, std::string(8 << 20, '\0'))));
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_FORMAT, "more than 1048576 bytes");
    o.limits.max_bytes = 0;
    o.limits.max_pixels = 4096 * 1024 - 1;
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_FORMAT, "images of 1024 x 4096 pixels");
    write_file(d / "images-idx3-ubyte.gz", gzip(idx_images(2, 3, 2, 1)).substr(0, 20));
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "images-idx3-ubyte.gz");
    write_file(d / "images-idx3-ubyte.gz", idx_images(2, 3, 2, 1));
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "not gzip data");
}

// ---- CIFAR ----

/* Planes to channels last, by hand. */
std::string channels_last(const std::string &records, size_t record, size_t n_labels)
{
    std::string s;
    for (size_t at = 0; at < records.size(); at += record)
        for (size_t k = 0; k < 1024; k++)
            for (size_t c = 0; c < 3; c++) s += records[at + n_labels + c * 1024 + k];
    return s;
}

TEST(Cifar, ReadsBothKinds)
{
    const TempDir d;
    const std::string ten = cifar(10, {3, 9, 0}, 1), hundred = cifar(100, {99, 7}, 2);
    write_file(d / "ten.bin", ten);
    write_file(d / "hundred.bin.gz", gzip(hundred));
    const ImageSets a(d / "ten.bin"), b(d / "hundred.bin.gz");
    ASSERT_EQ(a.status, HN_OK) << hn_last_error();
    ASSERT_EQ(b.status, HN_OK) << hn_last_error();
    EXPECT_EQ(a.t()->h, 32);
    EXPECT_EQ(a.t()->c, 3);
    EXPECT_EQ(a.t()->n_classes, 10);
    EXPECT_EQ(labels_of(a.t()), (Ints{3, 9, 0}));
    EXPECT_EQ(bytes_of(a.t()), channels_last(ten, 3073, 1));
    EXPECT_EQ(b.t()->n_classes, 100);
    EXPECT_EQ(labels_of(b.t()), (Ints{99, 7}));
    EXPECT_EQ(bytes_of(b.t()), channels_last(hundred, 3074, 2));
    hn_image_options o = {};
    o.coarse = true;
    const ImageSets coarse(d / "hundred.bin.gz", o);
    ASSERT_EQ(coarse.status, HN_OK) << hn_last_error();
    EXPECT_EQ(coarse.t()->n_classes, 20);
    EXPECT_EQ(labels_of(coarse.t()), (Ints{19, 1}));
    EXPECT_HN_FAIL(ImageSets(d / "ten.bin", o).status, HN_ERR_ARG, "coarse labels");
}

TEST(Cifar, JoinsNumberedFilesInOrder)
{
    const TempDir d;
    std::string all;
    for (int i = 1; i <= 11; i++) {
        const std::string part = cifar(10, {i % 10, (i + 1) % 10}, (unsigned)i);
        write_file(d / ("data_batch_" + std::to_string(i) + ".bin"), part);
        all += part;
    }
    write_file(d / "test_batch.bin", cifar(10, {5}, 50));
    write_file(d / "batches.meta.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
    const ImageSets s(d.str());
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(bytes_of(s.t()), channels_last(all, 3073, 1));
    EXPECT_EQ(s.e()->count, 1);
    EXPECT_STREQ(s.e()->class_name[9], "j");
    fs::remove(d / "data_batch_7.bin");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_ARG, "are not parts of one set");
    const ImageSets one(d / "data_batch_1.bin");
    ASSERT_EQ(one.status, HN_OK) << hn_last_error();
    const ImageSets list(d / "data_batch_2.bin," + d / "data_batch_1.bin"); /* as written */
    ASSERT_EQ(list.status, HN_OK) << hn_last_error();
    EXPECT_EQ(labels_of(list.t()), (Ints{2, 3, 1, 2}));
    const ImageSets pattern(d / "data_batch_?.bin"); /* in name order, 7 is missing */
    ASSERT_EQ(pattern.status, HN_OK) << hn_last_error();
    EXPECT_EQ(pattern.t()->count, 16);
}

TEST(Cifar, WantsAllPartsThatANameSpeaksOf)
{
    const TempDir d;
    for (const char *name : {"train_1of3.bin.gz", "train_3of3.bin.gz"})
        write_file(d / name, gzip(cifar(100, {1, 2}, 1)));
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_ARG, "3 parts");
    write_file(d / "train_2of3.bin", cifar(100, {3}, 2));
    const ImageSets s(d.str());
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(labels_of(s.t()), (Ints{1, 2, 3, 1, 2}));
    write_file(d / "train_1500.bin", cifar(100, {3}, 2));
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_ARG, "are not parts of one set");
}

TEST(Cifar, RefusesDamage)
{
    const TempDir d;
    const std::string path = d / "train.bin";
    const auto fails = [&](const std::string &bytes, const char *part, hn_image_kind kind) {
        hn_image_options o = {};
        o.kind = kind;
        write_file(path, bytes);
        EXPECT_HN_FAIL(ImageSets(path, o).status, HN_ERR_FORMAT, part);
        EXPECT_NE(std::strstr(hn_last_error(), path.c_str()), nullptr) << hn_last_error();
    };
    const std::string ten = cifar(10, {1, 2, 3}, 1);
    fails("", "the file is empty", HN_IMAGES_AUTO);
    fails(ten.substr(0, 9000), "neither whole records", HN_IMAGES_AUTO);
    fails(ten.substr(0, 9000), "2 records of 3073 bytes (CIFAR-10) and 2854 bytes",
          HN_IMAGES_CIFAR10);
    fails(ten, "2 records of 3074 bytes (CIFAR-100)", HN_IMAGES_CIFAR100);
    fails(cifar(10, {1, 10}, 1), "record 1: label 10, CIFAR-10 has 10", HN_IMAGES_AUTO);
    std::string hundred = cifar(100, {1, 2, 3}, 1);
    hundred[3074 + 1] = 100;
    fails(hundred, "record 1: fine label 100, CIFAR-100 has 100", HN_IMAGES_AUTO);
    hundred[3074] = 20;
    fails(hundred, "record 1: coarse label 20, CIFAR-100 has 20", HN_IMAGES_AUTO);
    /* one of several */
    write_file(d / "a.bin", ten);
    write_file(d / "b.bin", cifar(100, {1}, 1));
    EXPECT_HN_FAIL(ImageSets(d / "a.bin," + d / "b.bin").status, HN_ERR_FORMAT,
                   "b.bin: 3074 bytes");
    hn_image_options o = {};
    o.limits.max_bytes = 2 * 3072;
    EXPECT_HN_FAIL(ImageSets(d / "a.bin", o).status, HN_ERR_FORMAT, "limit of 6144 bytes");
    write_file(d / "classes.txt", "a\nb\n");
    EXPECT_HN_FAIL(ImageSets(d / "a.bin").status, HN_ERR_FORMAT,
                   "2 names of classes, the data have 10");
}

/* 3073 records of CIFAR-100 have as many bytes as 3074 of CIFAR-10: labels decide. */
TEST(Cifar, TellsTheKindsApartByLabels)
{
    const TempDir d;
    const std::string zeros(3073 * 3074, '\0');
    write_file(d / "a.bin", zeros);
    EXPECT_HN_FAIL(ImageSets(d / "a.bin").status, HN_ERR_ARG, "name the kind");
    std::string hundred = zeros;
    for (size_t i = 0; i < 3073; i++) hundred[i * 3074 + 1] = 99;
    write_file(d / "a.bin", hundred);
    const ImageSets s(d / "a.bin");
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.t()->n_classes, 100);
    EXPECT_EQ(s.t()->count, 3073);
    write_file(d / "a.bin", std::string(3073 * 3074, '\xff'));
    EXPECT_HN_FAIL(ImageSets(d / "a.bin").status, HN_ERR_FORMAT, "outside the classes");
}

// ---- splits, sizes, joining ----

TEST(ImageSets, HoldOutTheLastOfEachClass)
{
    const TempDir d;
    write_mnist(d.str(), "train", {0, 1, 0, 0, 2, 1, 0, 0, 1, 0, 0, 0, 0}, 1, false);
    write_mnist(d.str(), "test", {0}, 2, false);
    hn_image_options o = {};
    o.eval_split = 0.3;
    const ImageSets s(d.str(), o); /* of 9, 3 and 1: 3, 1 and 0 */
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(labels_of(s.t()), (Ints{0, 1, 0, 0, 2, 1, 0, 0, 0}));
    EXPECT_EQ(labels_of(s.e()), (Ints{1, 0, 0, 0}));
    const std::string all = pixels(13 * 6, 1);
    EXPECT_EQ(bytes_of(s.e()), all.substr(8 * 6, 6) + all.substr(10 * 6));
    EXPECT_EQ(s.e()->n_classes, 3);
    EXPECT_TRUE(std::strstr(hn_image_set_name(s.eval), "held-out 30 % of"));
    o.eval_split = 0.01;
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_FORMAT, "no class has enough");
    o.eval_split = 1;
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_ARG, "held-out share 1");
}

TEST(ImageSets, ReadTheirKindsNames)
{
    hn_image_kind kind = HN_IMAGES_AUTO;
    std::stringstream names(HN_IMAGE_KINDS);
    int n = 0;
    for (std::string name; std::getline(names, name, '|'); n++) {
        ASSERT_HN_OK(hn_image_kind_parse(name.c_str(), &kind));
        EXPECT_EQ((int)kind, n);
    }
    EXPECT_EQ(n, HN_IMAGES_FOLDER + 1);
    EXPECT_HN_FAIL(hn_image_kind_parse("cifar", &kind), HN_ERR_ARG, "'cifar': one of auto|idx");
}

TEST(ImageSets, BecomeSquaresAndColour)
{
    const TempDir d;
    write_mnist(d.str(), "train", {0, 1}, 1, false);
    hn_image_options o = {};
    o.image_size = 4;
    o.channels = 3;
    const ImageSets s(d.str(), o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.t()->h, 4);
    EXPECT_EQ(s.t()->w, 4);
    EXPECT_EQ(s.t()->c, 3);
    o.channels = 2;
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_ARG, "2 channels");
    o.channels = 0;
    o.image_size = 8193;
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_ARG, "image size 8193");
    o.image_size = 4;
    o.limits.max_bytes = 31;
    write_file(d / "c.bin", cifar(10, {1}, 1));
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_FORMAT, "limit of 31 bytes");
    o = {};
    o.channels = 1;
    EXPECT_HN_FAIL(ImageSets(d / "c.bin", o).status, HN_ERR_SHAPE, "3 channel(s), wanted are 1");
}

TEST(ImageSets, JoinWithClassesOneBehindTheOther)
{
    const TempDir d;
    write_mnist(d / "mnist", "train", {0, 1, 2}, 1, false);
    write_mnist(d / "mnist", "t10k", {2, 0}, 2, false);
    write_mnist(d / "fashion", "train", {1, 0, 0, 0}, 3, true);
    const std::string both = d / "mnist" + "+" + d / "fashion";
    const ImageSets s(both);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.t()->n_classes, 5);
    EXPECT_EQ(labels_of(s.t()), (Ints{0, 1, 2, 4, 3, 3, 3}));
    EXPECT_EQ(bytes_of(s.t()), pixels(18, 1) + pixels(24, 3));
    EXPECT_EQ(names_of(s.t()), (Names{"mnist:0", "mnist:1", "2", "fashion:0", "fashion:1"}));
    EXPECT_EQ(s.t()->n_parts, 2);
    EXPECT_EQ(Ints(s.t()->part_class, s.t()->part_class + 3), (Ints{0, 3, 5}));
    EXPECT_EQ(labels_of(s.e()), (Ints{2, 0})); /* only one of them holds something out */
    EXPECT_EQ(names_of(s.e()), names_of(s.t()));
    hn_image_options o = {};
    o.eval_split = 0.5; /* only of the one that holds nothing out */
    const ImageSets cut(both, o);
    ASSERT_EQ(cut.status, HN_OK) << hn_last_error();
    EXPECT_EQ(labels_of(cut.t()), (Ints{0, 1, 2, 4, 3}));
    EXPECT_EQ(labels_of(cut.e()), (Ints{2, 0, 3, 3}));
    write_file(d / "c.bin", cifar(10, {1}, 1));
    EXPECT_HN_FAIL(ImageSets(d / "mnist" + "+" + d / "c.bin").status, HN_ERR_SHAPE,
                   "cannot follow");
    EXPECT_HN_FAIL(ImageSets(d / "mnist" + "+").status, HN_ERR_ARG, "beside +");
    o = {};
    o.eval_data = "test";
    EXPECT_HN_FAIL(ImageSets(both, o).status, HN_ERR_ARG, "as many of both");
    const ImageSets twice(d / "mnist" + "+" + d / "mnist");
    ASSERT_EQ(twice.status, HN_OK) << hn_last_error();
    EXPECT_EQ(names_of(twice.t()), (Names{"mnist:0", "mnist:1", "mnist:2", "2:0", "2:1", "2:2"}));
}

TEST(ImageSets, HaveADigestOfEverythingInThem)
{
    const SmallSet a({0, 1, 1}, 2), same({0, 1, 1}, 2), labels({0, 1, 0}, 2), classes({0, 1, 1}, 3);
    const SmallSet names({0, 1, 1}, 2, {"x", "y"});
    std::set<std::string> all;
    for (const hn_image_set *s : {a.s, labels.s, classes.s, names.s})
        all.insert(hn_image_set_digest(s));
    EXPECT_EQ(all.size(), 4u);
    EXPECT_STREQ(hn_image_set_digest(a), hn_image_set_digest(same));
    EXPECT_EQ(std::strlen(hn_image_set_digest(a)), 64u);
}

TEST(ImageSets, MakeRefusesWhatDoesNotFit)
{
    const uint8_t pixel[4] = {};
    const int32_t label[1] = {2};
    hn_image_set *s = nullptr;
    hn_images v = {};
    v.count = 1, v.h = 2, v.w = 2, v.c = 1, v.n_classes = 2, v.pixel = pixel, v.label = label;
    EXPECT_HN_FAIL(hn_image_set_make(&v, "x", &s), HN_ERR_FORMAT, "label 2 is not in 0..1");
    v.h = 0;
    EXPECT_HN_FAIL(hn_image_set_make(&v, "x", &s), HN_ERR_SHAPE, "1 images of 0 x 2");
    EXPECT_EQ(s, nullptr);
    EXPECT_HN_FAIL(hn_image_sets_join(nullptr, 0, &s), HN_ERR_ARG, "no image sets");
}

TEST(ImageSets, CountAndMeasure)
{
    const SmallSet s({0, 1, 1, 0, 1}, 3); /* image i is full of i */
    int64_t count[3];
    hn_image_set_histogram(s, count);
    EXPECT_EQ(count[0], 2);
    EXPECT_EQ(count[1], 3);
    EXPECT_EQ(count[2], 0);
    hn_image_stats t;
    hn_image_set_stats(s, nullptr, 0, &t);
    for (int c = 0; c < 3; c++) {
        EXPECT_DOUBLE_EQ(t.mean[c], 2);
        EXPECT_DOUBLE_EQ(t.sd[c], std::sqrt(2.0));
    }
    const int32_t index[] = {4, 0};
    hn_image_set_stats(s, index, 2, &t);
    EXPECT_DOUBLE_EQ(t.mean[0], 2);
    EXPECT_DOUBLE_EQ(t.sd[0], 2);
    Lines lines;
    hn_image_set_report(s, &lines.log);
    EXPECT_TRUE(lines.has("3 classes: 0 2, 1 3, 2 0")) << lines.text;
    EXPECT_TRUE(lines.has("! ") && lines.has("1 class(es) have no image, the first is '2'"));
    EXPECT_TRUE(lines.has("of 255: 2.0000 (1.4142), 2.0000")) << lines.text;
}

TEST(ImageSets, ReportMissingMemory)
{
    const TempDir d;
    write_mnist(d / "m", "train", {0, 1, 0, 1}, 1, true);
    write_mnist(d / "m", "test", {2}, 1, false);
    write_file(d / "c.bin.gz", gzip(cifar(10, {1, 1, 2, 2}, 1)));
    put_fixture(d / "f/a", "rgb8.png", "1.png");
    put_fixture(d / "f/b", "exif6.jpg", "1.jpg");
    put_fixture(d / "f/train", "rgb8.png", "1.png");
    put_fixture(d / "g/train/A/a", "rgb8.png", "1.png");
    put_fixture(d / "g/train/B/b", "rgb8.png", "1.png");
    put_fixture(d / "g/train/B/b", "rgb8.png", "2.png");
    put_fixture(d / "g/test/B/b", "rgb8.png", "1.png");
    hn_image_options o = {};
    o.image_size = 8;
    o.groups = true;
    o.class_images = 1;
    for (const std::string &data :
         {d / "m", d / "c.bin.gz", d / "f", d / "g", d / "m" + "+" + d / "m"}) {
        o.eval_split = data == d / "c.bin.gz" ? 0.5 : 0;
        int failed = 0;
        for (uint64_t nth = 1; nth < 2000; nth++) {
            hn_alloc_fail_at(nth);
            const ImageSets s(data, o);
            hn_alloc_fail_at(0);
            if (s.status == HN_OK) break;
            EXPECT_EQ(s.status, HN_ERR_MEMORY) << hn_last_error();
            failed++;
        }
        EXPECT_GT(failed, 10) << data;
        EXPECT_LT(failed, 1900) << data;
    }
}

// ---- real data ----

std::string sha(const std::string &bytes)
{
    char hex[HN_SHA256_HEX];
    EXPECT_HN_OK(hn_sha256(bytes.data(), bytes.size(), hex));
    return hex;
}

std::vector<int64_t> histogram(const hn_image_set *s)
{
    std::vector<int64_t> n((size_t)hn_image_set_view(s)->n_classes);
    hn_image_set_histogram(s, n.data());
    return n;
}

TEST(RealImages, MnistIsWhatItsSourceSays)
{
    HN_NEED_DATA(dir, "mnist");
    const ImageSets s(dir);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.t()->count, 60000);
    EXPECT_EQ(s.e()->count, 10000);
    EXPECT_EQ(s.t()->n_classes, 10);
    EXPECT_EQ(histogram(s.train),
              (std::vector<int64_t>{5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949}));
    EXPECT_EQ(sha(idx(8, {60000, 28, 28}, bytes_of(s.t()))),
              "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db");
    EXPECT_EQ(sha(idx(8, {10000, 28, 28}, bytes_of(s.e()))),
              "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7");
    std::string label;
    for (int32_t y : labels_of(s.t())) label += (char)y;
    EXPECT_EQ(sha(idx(8, {60000}, label)),
              "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5");
    hn_image_stats t;
    hn_image_set_stats(s.train, nullptr, 0, &t);
    EXPECT_NEAR(t.mean[0], 33.3184, 5e-5); /* to the digits that are published */
    EXPECT_NEAR(t.sd[0], 78.5675, 5e-5);
}

TEST(RealImages, FashionIsThereInOnePart)
{
    HN_NEED_DATA(dir, "fashion-mnist");
    EXPECT_HN_FAIL(ImageSets(dir).status, HN_ERR_ARG, "no training images");
    hn_image_options o = {};
    o.eval_split = 0.2;
    const ImageSets s(dir + "/t10k-images-idx3-ubyte.gz", o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(histogram(s.train), std::vector<int64_t>(10, 800));
    EXPECT_EQ(histogram(s.eval), std::vector<int64_t>(10, 200));
    const ImageSets whole(dir + "/t10k-images-idx3-ubyte.gz");
    EXPECT_EQ(sha(idx(8, {10000, 28, 28}, bytes_of(whole.t()))),
              "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b");
}

TEST(RealImages, PneumoniaHasThreeParts)
{
    HN_NEED_DATA(dir, "pneumoniamnist");
    const ImageSets s(dir);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(histogram(s.train), (std::vector<int64_t>{1214, 3494}));
    EXPECT_EQ(s.e()->count, 524);
    hn_image_stats t;
    hn_image_set_stats(s.train, nullptr, 0, &t);
    EXPECT_NEAR(t.mean[0] / 255, 0.5719, 5e-5);
    EXPECT_NEAR(t.sd[0] / 255, 0.1684, 5e-5);
    hn_image_options o = {};
    o.eval_data = "test";
    const ImageSets test(dir, o);
    ASSERT_EQ(test.status, HN_OK) << hn_last_error();
    EXPECT_EQ(test.e()->count, 624);
}

/* Back to records, to compare with the file. */
std::string records_of(const hn_images *v)
{
    std::string s;
    for (int64_t i = 0; i < v->count; i++) {
        s += (char)v->label[i];
        for (int c = 0; c < 3; c++)
            for (int64_t k = 0; k < 1024; k++) s += (char)v->pixel[(i * 1024 + k) * 3 + c];
    }
    return s;
}

TEST(RealImages, Cifar10IsWhatItsSourceSays)
{
    HN_NEED_DATA(dir, "cifar10");
    EXPECT_HN_FAIL(ImageSets(dir).status, HN_ERR_ARG, "are not parts of one set");
    const std::string test = dir + "/test_500.bin";
    hn_image_options o = {};
    o.eval_data = test.c_str();
    const ImageSets s(dir + "/train_10000_*of2.bin.gz", o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(histogram(s.train), std::vector<int64_t>(10, 1000));
    EXPECT_EQ(histogram(s.eval), std::vector<int64_t>(10, 50));
    EXPECT_EQ(sha(records_of(s.e())),
              "b0245097b0ed802e66dc38c9a92e24b682d3245012e76f4916d6bb472b79e91c");
    for (int64_t i = 0; i < s.t()->count; i++) ASSERT_EQ(s.t()->label[i], i % 10); /* interleaved */
    EXPECT_STREQ(s.t()->class_name[0], "airplane");
}

TEST(RealImages, Cifar100IsWhatItsSourceSays)
{
    HN_NEED_DATA(dir, "cifar100");
    const ImageSets s(dir);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(histogram(s.train), std::vector<int64_t>(100, 150));
    EXPECT_EQ(histogram(s.eval), std::vector<int64_t>(100, 50));
    EXPECT_STREQ(s.t()->class_name[0], "apple");
    EXPECT_STREQ(s.t()->class_name[99], "worm");
    hn_image_stats t;
    hn_image_set_stats(s.train, nullptr, 0, &t);
    const double published[] = {129.30, 124.07, 112.43}; /* of the whole set */
    for (int c = 0; c < 3; c++) EXPECT_NEAR(t.mean[c], published[c], 1);
    hn_image_options o = {};
    o.coarse = true;
    const ImageSets coarse(dir, o);
    ASSERT_EQ(coarse.status, HN_OK) << hn_last_error();
    EXPECT_EQ(histogram(coarse.train), std::vector<int64_t>(20, 750));
    EXPECT_EQ(bytes_of(coarse.e()), bytes_of(s.e()));
}

TEST(RealImages, OmniglotHasWideLabelsAndNames)
{
    HN_NEED_DATA(dir, "omniglot");
    const ImageSets s(dir);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(histogram(s.train), std::vector<int64_t>(242, 20));
    EXPECT_EQ(s.t()->h, 105);
    EXPECT_EQ(sha(idx(8, {4840, 105, 105}, bytes_of(s.t()))),
              "2234481cf33762113fbf541842e4242d7a03ebd1feb5598d075747b9873e08a4");
}

} // namespace
