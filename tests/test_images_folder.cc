/* runtime/data/images: a folder for each class; its parts, sizes, how many of a class; damage. */
#include <sys/stat.h>

#include <filesystem>

#include "hn_test.h"
#include "image_test.h"
#include "runtime/data/class_split.h"
#include "runtime/data/image_decode.h"

namespace fs = std::filesystem;

namespace {

using Ints = std::vector<int32_t>;
using Names = std::vector<std::string>;

TEST(Folder, ReadsClassesInOrder)
{
    const TempDir d;
    put_fixture(d / "dog", "rgb8.png", "b.png");
    put_fixture(d / "dog", "grey8.png", "a.PNG");
    put_fixture(d / "cat", "rgb444.jpg", "z.JPeG");
    put_fixture(d / "Zebra", "palette.png", "1.png");
    put_fixture(d / ".hidden", "rgb8.png", "1.png");
    write_file(d / "README.txt", "not a class");
    write_file(d / "cat/.DS_Store", "x");
    write_file(d / "cat/notes.txt", "x");
    const ImageSets s(d.str());
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(names_of(s.t()), (Names{"Zebra", "cat", "dog"}));
    EXPECT_EQ(labels_of(s.t()), (Ints{0, 1, 2, 2}));
    EXPECT_EQ(s.t()->h, 13);
    EXPECT_EQ(s.t()->w, 17);
    EXPECT_EQ(s.t()->c, 3);
    EXPECT_EQ(s.eval, nullptr);
    Lines lines;
    hn_image_set_report(s.train, &lines.log);
    EXPECT_TRUE(lines.has("4 images of 17 x 13 pixels, 3 channel(s)")) << lines.text;
    EXPECT_TRUE(lines.has("3 classes: Zebra 1, cat 1, dog 2")) << lines.text;
    EXPECT_TRUE(lines.has("! ") && lines.has("1 file(s) are no images")) << lines.text;
    EXPECT_TRUE(lines.has("notes.txt")) << lines.text;
}

TEST(Folder, CutsTheCentreOfALongerSide)
{
    const TempDir d;
    put_fixture(d / "a", "rgb8.png", "1.png");
    hn_image_options o = {};
    const ImageSets whole(d.str());
    ASSERT_EQ(whole.status, HN_OK) << hn_last_error();
    ASSERT_EQ(whole.t()->h, 13);
    for (const auto &[side, crop] : {std::pair<int64_t, int64_t>{15, 13}, {13, 13}, {30, 7}}) {
        o.folder_side = side, o.folder_crop = crop;
        std::vector<uint8_t> want((size_t)(crop * crop * 3));
        ASSERT_HN_OK(hn_image_resize_crop(whole.t()->pixel, 13, 17, 3, side, crop, want.data()));
        const ImageSets s(d.str(), o);
        ASSERT_EQ(s.status, HN_OK) << hn_last_error();
        EXPECT_EQ(bytes_of(s.t()), std::string(want.begin(), want.end())) << side;
    }
    o.folder_crop = o.folder_side + 1;
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_ARG, "31 cut from each");
}

TEST(Folder, KeepsGreyGreyAndMakesColourOnRequest)
{
    const TempDir d;
    put_fixture(d / "a", "grey8.png", "1.png");
    put_fixture(d / "b", "grey.jpg", "1.jpg");
    const ImageSets grey(d.str());
    ASSERT_EQ(grey.status, HN_OK) << hn_last_error();
    EXPECT_EQ(grey.t()->c, 1);
    hn_image_options o = {};
    o.channels = 3;
    const ImageSets colour(d.str(), o);
    ASSERT_EQ(colour.status, HN_OK) << hn_last_error();
    ASSERT_EQ(colour.t()->c, 3);
    const std::string one = bytes_of(grey.t()), three = bytes_of(colour.t());
    for (size_t i = 0; i < three.size(); i++) ASSERT_EQ(three[i], one[i / 3]);
    put_fixture(d / "b", "rgb8.png", "2.png");
    o.channels = 1;
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_SHAPE, "b/2.png: a colour image");
}

TEST(Folder, WantsOneSizeOrMakesIt)
{
    const TempDir d;
    put_fixture(d / "a", "rgb8.png", "1.png");
    put_fixture(d / "a", "exif1.jpg", "2.jpg");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_SHAPE, "2.jpg is 14 x 9");
    hn_image_options o = {};
    o.image_size = 8;
    const ImageSets s(d.str(), o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.t()->h, 8);
    EXPECT_EQ(s.t()->w, 8);
    Lines lines;
    hn_image_set_report(s.train, &lines.log);
    EXPECT_TRUE(lines.has("2 image(s) were resized and cropped to 8 x 8")) << lines.text;
}

TEST(Folder, FindsParts)
{
    const TempDir d;
    put_fixture(d / "train/a", "rgb8.png", "1.png");
    put_fixture(d / "train/b", "rgb444.jpg", "1.jpg");
    put_fixture(d / "test/b", "rgb8.png", "1.png");
    const ImageSets s(d.str());
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(s.t()->count, 2);
    EXPECT_EQ(labels_of(s.e()), (Ints{1})); /* matched by name */
    EXPECT_EQ(names_of(s.e()), (Names{"a", "b"}));
    put_fixture(d / "val/c", "rgb8.png", "1.png");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT,
                   "class 'c' is not in the training data");
    fs::remove_all(d / "val");
    put_fixture(d / "val/a", "exif1.jpg", "1.jpg");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_SHAPE, "14 x 9");
}

/* train/ is a part by the folders in it, a class by its images; MSCOCO has a class of that name. */
TEST(Folder, TakesATrainOfImagesForAClass)
{
    const TempDir d;
    for (const std::string c : {"bird", "train", "test", "val"})
        put_fixture(d / c, "rgb8.png", "1.png");
    write_file(d / "train/notes.txt", "x");
    const ImageSets s(d.str());
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(names_of(s.t()), (Names{"bird", "test", "train", "val"}));
    EXPECT_EQ(s.eval, nullptr);
    hn_image_options o = {};
    o.eval_data = "test"; /* is a class, no part */
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_ARG, "test: no images there");
    o = {};
    o.kind = HN_IMAGES_FOLDER;
    const ImageSets named(d.str(), o);
    ASSERT_EQ(named.status, HN_OK) << hn_last_error();
    EXPECT_STREQ(hn_image_set_digest(named.train), hn_image_set_digest(s.train));
    /* a class train of a set in parts */
    for (const std::string c : {"p/train/train", "p/train/bird", "p/test/train"})
        put_fixture(d / c, "rgb8.png", "1.png");
    const ImageSets parts(d / "p");
    ASSERT_EQ(parts.status, HN_OK) << hn_last_error();
    EXPECT_EQ(names_of(parts.t()), (Names{"bird", "train"}));
    EXPECT_EQ(labels_of(parts.e()), (Ints{1}));
    const ImageSets itself(d / "p/train"); /* there, too, it is a class */
    ASSERT_EQ(itself.status, HN_OK) << hn_last_error();
    EXPECT_EQ(names_of(itself.t()), (Names{"bird", "train"}));
}

TEST(Folder, RefusesATrainThatMayBeBoth)
{
    const TempDir d;
    put_fixture(d / "bird", "rgb8.png", "1.png");
    put_fixture(d / "train/a", "rgb8.png", "1.png");
    put_fixture(d / "train", "rgb8.png", "2.png");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_ARG, "/train: folders (a) and images (2.png)");
    const ImageSets itself(d / "train"); /* the way out that the error names */
    ASSERT_EQ(itself.status, HN_OK) << hn_last_error();
    EXPECT_EQ(names_of(itself.t()), (Names{"a"}));
    fs::remove(d / "train/2.png");
    write_file(d / "train/README.txt", "no image"); /* as every set in parts may have */
    const ImageSets part(d.str());
    ASSERT_EQ(part.status, HN_OK) << hn_last_error();
    EXPECT_EQ(names_of(part.t()), (Names{"a"}));
    fs::remove_all(d / "train/a");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "/train: no folder of a class");
    put_fixture(d / "train", "rgb8.png", "2.png");
    const ImageSets klass(d.str());
    ASSERT_EQ(klass.status, HN_OK) << hn_last_error();
    EXPECT_EQ(names_of(klass.t()), (Names{"bird", "train"}));
    /* parts without classes, as unlabelled images come, are not classes */
    fs::rename(d / "bird", d / "test");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_ARG, "/train: images, no folder of a class");
}

/* Omniglot as its folders are: alphabet/character. */
TEST(Folder, ReadsClassesInFoldersOfTheirGroups)
{
    const TempDir d;
    for (const std::string c : {"train/Greek/2", "train/Greek/1", "train/A b/2", "test/Greek/2"})
        put_fixture(d / c, "rgb8.png", "1.png");
    hn_image_options o = {};
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_ARG, "A b: a folder in the folder of");
    o.groups = true;
    const ImageSets s(d.str(), o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(names_of(s.t()), (Names{"A b/2", "Greek/1", "Greek/2"}));
    EXPECT_EQ(labels_of(s.t()), (Ints{0, 1, 2}));
    EXPECT_EQ(labels_of(s.e()), (Ints{2}));
    hn_class_groups g = {};
    ASSERT_HN_OK(hn_class_groups_make(s.train, &g));
    ASSERT_EQ(g.n, 2);
    EXPECT_STREQ(g.name[1], "Greek");
    EXPECT_EQ(Ints(g.of_class, g.of_class + 3), (Ints{0, 1, 1}));
    hn_class_groups_free(&g);
    const ImageSets one(d / "train/Greek", o); /* without groups it is as ever */
    ASSERT_EQ(one.status, HN_OK) << hn_last_error();
    EXPECT_EQ(names_of(one.t()), (Names{"1", "2"}));
    const auto fails = [&](const std::string &more, const char *fixture, const char *part) {
        put_fixture(d / ("train/" + more), fixture, "9.png");
        EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_ARG, part);
        fs::remove_all(d / ("train/" + more));
    };
    fails("Latin", "rgb8.png", "folders are in A b and none in Latin");
    fails("Latin/a/deep", "rgb8.png", "Latin/a: a folder in the folder of a class");
    put_fixture(d / "train/Greek", "rgb8.png", "9.png");
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_ARG,
                   "Greek: folders (1) and images (9.png)");
    fs::remove(d / "train/Greek/9.png");
    fs::remove_all(d / "train/A b");
    fs::rename(d / "train", d / "val"); /* parts, and none to train on */
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_ARG, "/test: classes in it, as in a part");
}

TEST(Folder, RefusesWhatItCannotRead)
{
    const TempDir d;
    fs::create_directories(d / "a");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "/a: no .jpg, .jpeg or .png");
    put_fixture(d / "a", "rgb8.png", "1.png");
    write_file(d / "a/2.webp", "x");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_UNSUPPORTED, "a/2.webp: only JPEG and PNG");
    fs::remove(d / "a/2.webp");
    fs::create_directories(d / "a/b");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_ARG, "a folder in the folder of a class");
    fs::remove(d / "a/b");
    put_fixture(d / "a", "cmyk.jpg", "3.jpg");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_UNSUPPORTED, "a/3.jpg: CMYK JPEG");
    fs::remove(d / "a/3.jpg");
    ASSERT_EQ(mkfifo((d / "a/4.png").c_str(), 0600), 0);
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_IO, "a/4.png: not a regular file");
    fs::remove(d / "a/4.png");
    fs::create_symlink("nowhere", d / "a/5.jpg");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_IO, "a/5.jpg: No such file");
    EXPECT_HN_FAIL(ImageSets(d / "a/1.png").status, HN_ERR_ARG, "unknown kind of image data");
    EXPECT_HN_FAIL(ImageSets(d / "a").status, HN_ERR_ARG, "no training images");
}

/* Damage in many files: the first in order is named, whatever the threads do. */
TEST(Folder, NamesTheFirstDamagedFile)
{
    const TempDir d;
    const std::string jpg = read_file("tests/fixtures/images/rgb444.jpg");
    fs::create_directories(d / "a");
    for (int i = 10; i < 60; i++)
        write_file(d / ("a/" + std::to_string(i) + ".jpg"), i < 40 ? jpg : jpg.substr(0, 700));
    for (int i = 0; i < 5; i++)
        EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "a/40.jpg: damaged JPEG");
    for (int i = 30; i < 40; i++) write_file(d / ("a/" + std::to_string(i) + ".jpg"), "GIF");
    for (int i = 0; i < 5; i++)
        EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "a/30.jpg: neither JPEG nor PNG");
    hn_image_options o = {};
    o.limits.max_pixels = 100;
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_FORMAT, "a/10.jpg: image of 17 x 13");
    for (int i = 30; i < 60; i++) fs::remove(d / ("a/" + std::to_string(i) + ".jpg"));
    o.limits.max_pixels = 0;
    o.limits.max_bytes = 10000;
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_FORMAT, "limit of 10000 bytes");
}

/* The first files of each class, of every part: what is behind them is neither opened nor counted.
 */
TEST(Folder, TakesTheFirstImagesOfEachClass)
{
    const TempDir d;
    const char *const all[] = {"rgb8.png", "palette.png", "rgba.png", "text.png"};
    for (const std::string c : {"train/a", "train/b", "test/b"})
        for (int i = 0; i < (c == "train/a" ? 2 : 4); i++)
            put_fixture(d / c, all[i], std::to_string(i) + ".png");
    write_file(d / "train/b/00.txt", "is no image, and takes no place");
    hn_image_options o = {};
    const ImageSets whole(d.str(), o);
    ASSERT_EQ(whole.status, HN_OK) << hn_last_error();
    EXPECT_EQ(labels_of(whole.t()), (Ints{0, 0, 1, 1, 1, 1}));
    o.class_images = 3;
    const ImageSets three(d.str(), o);
    ASSERT_EQ(three.status, HN_OK) << hn_last_error();
    EXPECT_EQ(labels_of(three.t()), (Ints{0, 0, 1, 1, 1}));
    EXPECT_EQ(labels_of(three.e()), (Ints{1, 1, 1}));
    const size_t image = 13 * 17 * (size_t)whole.t()->c;
    EXPECT_EQ(bytes_of(three.t()), bytes_of(whole.t()).substr(0, 5 * image));
    EXPECT_EQ(bytes_of(three.e()), bytes_of(whole.e()).substr(0, 3 * image));
    Lines lines;
    hn_image_set_report(three.train, &lines.log);
    EXPECT_TRUE(lines.has("1 image(s) behind the first ones of their classes")) << lines.text;
    o.class_images = 4; /* all there are */
    const ImageSets four(d.str(), o);
    ASSERT_EQ(four.status, HN_OK) << hn_last_error();
    EXPECT_STREQ(hn_image_set_digest(four.train), hn_image_set_digest(whole.train));
    /* too large as a whole, damaged and of other sizes behind the first ones */
    write_file(d / "train/b/3.png", "damaged");
    put_fixture(d / "train/b", "exif1.jpg", "4.jpg");
    o.class_images = 0;
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_FORMAT, "b/3.png");
    o.class_images = 3;
    const ImageSets unopened(d.str(), o);
    ASSERT_EQ(unopened.status, HN_OK) << hn_last_error();
    EXPECT_STREQ(hn_image_set_digest(unopened.train), hn_image_set_digest(three.train));
    fs::remove(d / "train/b/3.png");
    fs::remove(d / "train/b/4.jpg");
    put_fixture(d / "train/b", all[3], "3.png");
    o.class_images = 0;
    o.limits.max_bytes = (int64_t)(5 * image);
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_FORMAT, "by an image size");
    EXPECT_EQ(std::strstr(hn_last_error(), "fewer"), nullptr) << hn_last_error();
    o.class_images_name = "--few";
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_FORMAT,
                   "take fewer of each class by --few");
    o.class_images = 3;
    const ImageSets capped(d.str(), o);
    ASSERT_EQ(capped.status, HN_OK) << hn_last_error();
    EXPECT_STREQ(hn_image_set_digest(capped.train), hn_image_set_digest(three.train));
    o.class_images = -1;
    EXPECT_HN_FAIL(ImageSets(d.str(), o).status, HN_ERR_ARG, "-1 images of each class");
}

} // namespace
