/* runtime/data/task_stream: tasks by lists, by cuts, by joined data sets; views and labels. */
#include <algorithm>
#include <set>

#include "hn_test.h"
#include "image_test.h"
#include "runtime/base/alloc.h"
#include "runtime/data/task_stream.h"

namespace {

using Ints = std::vector<int32_t>;

struct Stream {
    hn_task_stream *t = nullptr;
    hn_status status;
    Stream(const hn_image_set *s, const hn_task_options &o)
    {
        status = hn_task_stream_make(s, &o, &t);
    }
    Stream(const hn_image_set *s, const char *tasks, bool repeats = false)
    {
        hn_task_options o = {};
        o.tasks = tasks;
        o.allow_repeats = repeats;
        status = hn_task_stream_make(s, &o, &t);
    }
    Stream(const Stream &) = delete;
    ~Stream() { hn_task_stream_free(t); }
    std::string text() const { return hn_task_stream_text(t); }
    Ints classes(int task) const
    {
        const int32_t *c = nullptr;
        const int32_t n = hn_task_stream_classes(t, task, &c);
        return Ints(c, c + n);
    }
};

struct View {
    hn_image_view v = {};
    hn_status status;
    View(const Stream &s, const hn_image_set *set, int first, int end, hn_task_labels labels)
    {
        status = hn_task_view_make(s.t, set, first, end, labels, &v);
    }
    View(const View &) = delete;
    ~View() { hn_image_view_free(&v); }
    Ints index() const { return Ints(v.index, v.index + v.n); }
    Ints label() const { return Ints(v.label, v.label + v.n); }
};

hn_task_options cut(int64_t init_cls, int64_t increment)
{
    hn_task_options o = {};
    o.init_cls = init_cls, o.increment = increment;
    return o;
}

const std::vector<const char *> kNames = {"ant", "bee", "cat", "dog", "elk", "fox"};

TEST(TaskStream, CutsTheClassesOfTheData)
{
    const SmallSet s({0, 1, 2, 3, 4, 5}, 6);
    EXPECT_EQ(Stream(s, cut(2, 2)).text(), "0,1/2,3/4,5");
    EXPECT_EQ(Stream(s, cut(0, 3)).text(), "0,1,2/3,4,5");
    EXPECT_EQ(Stream(s, cut(4, 1)).text(), "0,1,2,3/4/5");
    EXPECT_EQ(Stream(s, cut(6, 0)).text(), "0,1,2,3,4,5");
    EXPECT_EQ(Stream(s, cut(6, 4)).text(), "0,1,2,3,4,5");
    EXPECT_EQ(Stream(s, cut(2, 0)).text(), "0,1/2,3,4,5"); /* the rest is one task */
    EXPECT_EQ(Stream(s, hn_task_options{}).text(), "0,1,2,3,4,5");
    const Stream t(s, cut(2, 2));
    EXPECT_EQ(hn_task_stream_tasks(t.t), 3);
    EXPECT_EQ(t.classes(1), (Ints{2, 3}));
    EXPECT_EQ(hn_task_stream_seen(t.t, 0), 0);
    EXPECT_EQ(hn_task_stream_seen(t.t, 2), 4);
    EXPECT_EQ(hn_task_stream_place(t.t, 5), 5);
    EXPECT_EQ(hn_task_stream_place(t.t, 6), -1);
}

TEST(TaskStream, RefusesCutsThatDoNotComeOutEven)
{
    const SmallSet s({0}, 6);
    EXPECT_HN_FAIL(Stream(s, cut(0, 4)).status, HN_ERR_ARG,
                   "6 classes are not 4 and then tasks of 4: the last would have 2");
    EXPECT_HN_FAIL(Stream(s, cut(1, 2)).status, HN_ERR_ARG, "the last would have 1");
    EXPECT_HN_FAIL(Stream(s, cut(7, 1)).status, HN_ERR_ARG, "the first task has 7 classes");
    EXPECT_HN_FAIL(Stream(s, cut(-1, 1)).status, HN_ERR_ARG, "init_cls -1");
}

TEST(TaskStream, ReadsListsOfNumbersNamesAndRanges)
{
    const SmallSet s({0, 1}, 6, kNames);
    EXPECT_EQ(Stream(s, "5,0/3").text(), "5,0/3");
    EXPECT_EQ(Stream(s, "fox, ant / dog").text(), "5,0/3");
    EXPECT_EQ(Stream(s, "2-4/0,bee").text(), "2,3,4/0,1");
    EXPECT_EQ(Stream(s, "0-0/1").text(), "0/1");
    /* what it says is a list that gives it again */
    const std::string text = Stream(s, "4-5/cat,0").text();
    EXPECT_EQ(Stream(s, text.c_str()).text(), text);
}

TEST(TaskStream, NamesTheClassThatIsWrong)
{
    const SmallSet s({0, 1}, 6, kNames);
    EXPECT_HN_FAIL(Stream(s, "0,1/6").status, HN_ERR_ARG,
                   "class '6' is not in small, which has 6 (0..5, 'ant'..)");
    EXPECT_HN_FAIL(Stream(s, "0,cow").status, HN_ERR_ARG, "class 'cow' is not in small");
    EXPECT_HN_FAIL(Stream(s, "4-6").status, HN_ERR_ARG, "class '4-6'");
    EXPECT_HN_FAIL(Stream(s, "4-3").status, HN_ERR_ARG, "class '4-3'");
    EXPECT_HN_FAIL(Stream(s, "-1").status, HN_ERR_ARG, "class '-1'");
    EXPECT_HN_FAIL(Stream(s, "99999999999999999999").status, HN_ERR_ARG, "class '999");
    EXPECT_HN_FAIL(Stream(s, "").status, HN_ERR_ARG, "an empty name");
    EXPECT_HN_FAIL(Stream(s, "0,,1").status, HN_ERR_ARG, "an empty name");
    EXPECT_HN_FAIL(Stream(s, "0/").status, HN_ERR_ARG, "an empty name");
    EXPECT_HN_FAIL(Stream(s, "0,1/2,1").status, HN_ERR_ARG,
                   "class 1 ('bee') is in task 0 and again in task 1: repeats must be allowed");
    EXPECT_HN_FAIL(Stream(s, "2,cat").status, HN_ERR_ARG, "class 2 ('cat') stands twice in task 0");
    EXPECT_HN_FAIL(Stream(s, "0/2,cat", true).status, HN_ERR_ARG, "stands twice in task 1");
}

TEST(TaskStream, RepeatsWhereItIsAllowed)
{
    const SmallSet s({0, 1, 2, 1}, 3);
    const Stream t(s, "0,1/0,1/2", true); /* task 1 is task 0 again */
    ASSERT_EQ(t.status, HN_OK) << hn_last_error();
    EXPECT_EQ(hn_task_stream_seen(t.t, 2), 2);
    EXPECT_EQ(hn_task_stream_seen(t.t, 3), 3);
    const View a(t, s, 0, 1, HN_LABELS_STREAM), b(t, s, 1, 2, HN_LABELS_STREAM);
    EXPECT_EQ(a.index(), (Ints{0, 1, 3}));
    EXPECT_EQ(b.index(), a.index());
    EXPECT_EQ(b.label(), a.label());
    const View both(t, s, 0, 2, HN_LABELS_STREAM); /* no image twice */
    EXPECT_EQ(both.index(), a.index());
}

TEST(TaskStream, TakesAnOrder)
{
    const SmallSet s({0, 1}, 6, kNames);
    hn_task_options o = cut(2, 2);
    o.order = "fox,0,cat,3,4,1";
    EXPECT_EQ(Stream(s, o).text(), "5,0/2,3/4,1");
    o.order = "4,2";
    EXPECT_EQ(Stream(s, o).text(), "4,2"); /* the others are in no task */
    o.order = "4,2,4";
    EXPECT_HN_FAIL(Stream(s, o).status, HN_ERR_ARG, "class 4 ('elk') stands twice");
    o.order = "4/2";
    EXPECT_HN_FAIL(Stream(s, o).status, HN_ERR_ARG, "class '4/2'");
}

TEST(TaskStream, ShufflesByTheSeedAlone)
{
    const SmallSet s({0}, 100), again({0, 1, 2}, 100);
    hn_task_options o = cut(10, 10);
    o.shuffle = true;
    std::set<std::string> all;
    for (uint64_t seed = 0; seed < 20; seed++) {
        o.seed = seed;
        const Stream t(s, o);
        all.insert(t.text());
        EXPECT_EQ(t.text(), Stream(again, o).text());
        Ints sorted;
        for (int k = 0; k < 10; k++)
            for (int32_t c : t.classes(k)) sorted.push_back(c);
        std::sort(sorted.begin(), sorted.end());
        for (int32_t i = 0; i < 100; i++) ASSERT_EQ(sorted[(size_t)i], i);
    }
    EXPECT_EQ(all.size(), 20u);
    o.seed = 1; /* must never change: checkpoints are compared with it */
    const SmallSet ten({0}, 10);
    o.init_cls = o.increment = 5;
    EXPECT_EQ(Stream(ten, o).text(), "8,5,0,1,9/2,3,7,6,4");
}

/* Each class is as often in front as any other. */
TEST(TaskStream, ShufflesEvenly)
{
    const SmallSet s({0}, 5);
    hn_task_options o = cut(5, 0);
    o.shuffle = true;
    std::vector<int> first(5), last(5);
    for (o.seed = 0; o.seed < 2000; o.seed++) {
        const Ints c = Stream(s, o).classes(0);
        first[(size_t)c[0]]++, last[(size_t)c[4]]++;
    }
    for (int n : first) EXPECT_NEAR(n, 400, 72); /* four deviations of 18 */
    for (int n : last) EXPECT_NEAR(n, 400, 72);
}

TEST(TaskStream, MakesATaskOfEachJoinedSet)
{
    const SmallSet s({0, 1, 2, 3, 4}, 5, {}, {0, 2, 5});
    hn_task_options o = {};
    o.by_part = true;
    EXPECT_EQ(Stream(s, o).text(), "0,1/2,3,4");
    const SmallSet one({0}, 2);
    EXPECT_HN_FAIL(Stream(one, o).status, HN_ERR_ARG, "a single data set");
}

TEST(TaskStream, RefusesTwoWaysAtOnce)
{
    const SmallSet s({0, 1}, 2, {}, {0, 1, 2});
    hn_task_options o = {};
    o.tasks = "0/1";
    o.increment = 1;
    EXPECT_HN_FAIL(Stream(s, o).status, HN_ERR_ARG, "one of them");
    o.increment = 0;
    o.by_part = true;
    EXPECT_HN_FAIL(Stream(s, o).status, HN_ERR_ARG, "one of them");
    o.by_part = false;
    o.shuffle = true;
    EXPECT_HN_FAIL(Stream(s, o).status, HN_ERR_ARG, "one of them");
    o = cut(1, 1);
    o.order = "0,1";
    o.shuffle = true;
    EXPECT_HN_FAIL(Stream(s, o).status, HN_ERR_ARG, "one of them");
    o = cut(1, 1);
    o.allow_repeats = true;
    EXPECT_HN_FAIL(Stream(s, o).status, HN_ERR_ARG, "only a list");
}

TEST(TaskView, HasTheImagesOfItsTasksAndTheirLabels)
{
    const SmallSet s({3, 0, 1, 2, 1, 3, 4}, 5);
    const Stream t(s, "3,1/0"); /* 2 and 4 are in no task */
    ASSERT_EQ(t.status, HN_OK) << hn_last_error();
    const View task(t, s, 0, 1, HN_LABELS_TASK);
    EXPECT_EQ(task.index(), (Ints{0, 2, 4, 5}));
    EXPECT_EQ(task.label(), (Ints{0, 1, 1, 0}));
    EXPECT_EQ(task.v.n_classes, 2);
    const View second(t, s, 1, 2, HN_LABELS_TASK);
    EXPECT_EQ(second.index(), (Ints{1}));
    EXPECT_EQ(second.label(), (Ints{0}));
    EXPECT_EQ(second.v.n_classes, 1);
    const View stream(t, s, 1, 2, HN_LABELS_STREAM);
    EXPECT_EQ(stream.label(), (Ints{2}));
    EXPECT_EQ(stream.v.n_classes, 3);
    const View data(t, s, 0, 2, HN_LABELS_DATA);
    EXPECT_EQ(data.index(), (Ints{0, 1, 2, 4, 5}));
    EXPECT_EQ(data.label(), (Ints{3, 0, 1, 1, 3}));
    EXPECT_EQ(data.v.n_classes, 5);
    GuardedArray<int32_t> all(7);
    ASSERT_HN_OK(hn_task_labels_fill(t.t, s, 0, 2, HN_LABELS_STREAM, all.data()));
    EXPECT_EQ(all.host(), (Ints{0, 2, 1, -100, 1, 0, -100}));
}

TEST(TaskView, RefusesWhatIsNotThere)
{
    const SmallSet s({0, 1, 0}, 3), other({0}, 2), held({0}, 3);
    const Stream t(s, "0/1/2");
    EXPECT_HN_FAIL(View(t, s, 1, 4, HN_LABELS_DATA).status, HN_ERR_ARG,
                   "tasks 1..3 of a stream of 3");
    EXPECT_HN_FAIL(View(t, s, 1, 1, HN_LABELS_DATA).status, HN_ERR_ARG, "tasks 1..0");
    EXPECT_HN_FAIL(View(t, s, -1, 1, HN_LABELS_DATA).status, HN_ERR_ARG, "tasks -1..0");
    EXPECT_HN_FAIL(View(t, s, 0, 2, HN_LABELS_TASK).status, HN_ERR_ARG, "no labels of one task");
    EXPECT_HN_FAIL(View(t, other, 0, 1, HN_LABELS_DATA).status, HN_ERR_ARG, "small has 2 classes");
    EXPECT_HN_FAIL(View(t, s, 2, 3, HN_LABELS_DATA).status, HN_ERR_FORMAT,
                   "task 2: small has no image of its classes");
    EXPECT_EQ(View(t, held, 0, 1, HN_LABELS_TASK).status, HN_OK);
}

TEST(TaskStream, ReportsTasks)
{
    const SmallSet s({0, 1, 1, 2, 4}, 6, kNames), held({0, 0, 4}, 6, kNames);
    const Stream t(s, "bee,ant/elk");
    Lines lines;
    hn_task_stream_report(t.t, s, held, &lines.log);
    EXPECT_TRUE(lines.has("2 tasks, 3 classes")) << lines.text;
    EXPECT_TRUE(lines.has("task 0: 3 images, 2 held out; 2 classes: bee, ant")) << lines.text;
    EXPECT_TRUE(lines.has("task 1: 1 images, 1 held out; 1 classes: elk")) << lines.text;
    EXPECT_TRUE(lines.has("! ") && lines.has("3 class(es) are in no task")) << lines.text;
    const SmallSet many({0}, 1000);
    Lines more;
    hn_task_stream_report(Stream(many, cut(1000, 0)).t, many, nullptr, &more.log);
    EXPECT_TRUE(more.has("task 0: 1 images; 1000 classes: 0, 1, 2")) << more.text;
    EXPECT_TRUE(more.has(" more")) << more.text;
}

TEST(TaskStream, ReportsMissingMemory)
{
    const SmallSet s({0, 1, 2}, 3);
    int failed = 0;
    for (uint64_t nth = 1; nth < 200; nth++) {
        hn_alloc_fail_at(nth);
        const Stream t(s, "0-1/2");
        const hn_status st = t.status == HN_OK ? View(t, s, 0, 1, HN_LABELS_TASK).status : t.status;
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        EXPECT_EQ(st, HN_ERR_MEMORY);
        failed++;
    }
    EXPECT_GT(failed, 5);
    EXPECT_LT(failed, 100);
}

TEST(RealTaskStream, CutsCifar100IntoTens)
{
    HN_NEED_DATA(dir, "cifar100");
    const ImageSets s(dir);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    hn_task_options o = cut(10, 10);
    o.shuffle = true;
    o.seed = 3;
    const Stream t(s.train, o);
    ASSERT_EQ(t.status, HN_OK) << hn_last_error();
    std::set<int32_t> all;
    for (int k = 0; k < 10; k++) {
        const View train(t, s.train, k, k + 1, HN_LABELS_TASK),
            held(t, s.eval, k, k + 1, HN_LABELS_TASK);
        ASSERT_EQ(train.v.n, 1500);
        ASSERT_EQ(held.v.n, 500);
        for (int64_t i = 0; i < train.v.n; i++) {
            all.insert(train.v.index[i]);
            EXPECT_EQ(t.classes(k)[(size_t)train.v.label[i]], s.t()->label[train.v.index[i]]);
        }
    }
    EXPECT_EQ(all.size(), 15000u);
}

} // namespace
