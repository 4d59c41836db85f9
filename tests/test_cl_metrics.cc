/* runtime/train/cl_metrics.h, rank_table.h: accuracy matrix, Avalanche's metrics, their files; and
 * scripts/tables/rank_map.py, which draws the table of ranks. */
#include "runtime/train/cl_metrics.h"

#include <limits>

#include "file_limit.h"
#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/train/rank_table.h"

namespace {

struct Matrix {
    hn_cl *c = nullptr;
    explicit Matrix(int64_t tasks) { EXPECT_HN_OK(hn_cl_new(tasks, &c)); }
    Matrix(const Matrix &) = delete;
    Matrix &operator=(const Matrix &) = delete;
    ~Matrix() { hn_cl_free(c); }
    operator hn_cl *() const { return c; }
    /* Row `after`, from task 1 on. */
    void row(int64_t after, const std::vector<double> &values)
    {
        for (size_t i = 0; i < values.size(); i++)
            EXPECT_HN_OK(hn_cl_put(c, after, (int64_t)i + 1, values[i]));
    }
    hn_cl_summary after(int64_t t) const
    {
        hn_cl_summary s = {};
        EXPECT_HN_OK(hn_cl_summarize(c, t, &s));
        return s;
    }
};

/* Three tasks, each also evaluated before it comes:
 *
 *   after 0:  0.2  0.1   0.3
 *   after 1:  0.8  0.25  0.3
 *   after 2:  0.6  0.9   0.4
 *   after 3:  0.7  0.5   1.0        */
void fill(Matrix &m)
{
    m.row(0, {0.2, 0.1, 0.3});
    m.row(1, {0.8, 0.25, 0.3});
    m.row(2, {0.6, 0.9, 0.4});
    m.row(3, {0.7, 0.5, 1.0});
}

/* ---- metrics ---- */

TEST(ClMetrics, ByHand)
{
    Matrix m(3);
    fill(m);
    EXPECT_EQ(hn_cl_tasks(m), 3);
    EXPECT_EQ(hn_cl_last(m), 3);
    EXPECT_DOUBLE_EQ(hn_cl_forgetting(m, 2, 1), 0.8 - 0.6);
    EXPECT_DOUBLE_EQ(hn_cl_forgetting(m, 3, 1), 0.8 - 0.7);
    EXPECT_DOUBLE_EQ(hn_cl_forgetting(m, 3, 2), 0.9 - 0.5);
    EXPECT_DOUBLE_EQ(hn_cl_bwt(m, 3, 2), 0.5 - 0.9);
    EXPECT_DOUBLE_EQ(hn_cl_forward_transfer(m, 2), 0.25 - 0.1);
    EXPECT_DOUBLE_EQ(hn_cl_forward_transfer(m, 3), 0.4 - 0.3);

    const auto one = m.after(1), two = m.after(2), three = m.after(3);
    EXPECT_DOUBLE_EQ(one.average_accuracy, 0.8);
    EXPECT_DOUBLE_EQ(two.average_accuracy, 0.75);
    EXPECT_DOUBLE_EQ(three.average_accuracy, 2.2 / 3);
    EXPECT_DOUBLE_EQ(two.average_incremental_accuracy, (0.8 + 0.75) / 2);
    EXPECT_NEAR(three.average_incremental_accuracy, (0.8 + 0.75 + 2.2 / 3) / 3, 1e-15);
    EXPECT_EQ(one.stream_forgetting, 0);
    EXPECT_EQ(one.max_forgetting, 0);
    EXPECT_EQ(std::signbit(one.stream_bwt), false);
    EXPECT_NEAR(two.stream_forgetting, 0.2, 1e-15);
    EXPECT_NEAR(three.stream_forgetting, (0.1 + 0.4) / 2, 1e-15);
    EXPECT_NEAR(three.stream_bwt, -0.25, 1e-15);
    EXPECT_NEAR(three.max_forgetting, (0.1 + 0.4) / 2, 1e-15);
    EXPECT_NEAR(one.stream_forward_transfer, 0.15, 1e-15) << "task 2, as seen after task 1";
    EXPECT_NEAR(two.stream_forward_transfer, (0.15 + 0.1) / 2, 1e-15);
    EXPECT_NEAR(three.stream_forward_transfer, (0.15 + 0.1) / 2, 1e-15);
}

/* A task that is best some time after it was learned: Avalanche compares with the first value. */
TEST(ClMetrics, ForgettingIsFromTheFirstValueOrFromTheBest)
{
    Matrix m(3);
    m.row(1, {0.5});
    m.row(2, {0.9, 0.6});
    m.row(3, {0.7, 0.6, 0.6});
    EXPECT_NEAR(m.after(3).stream_forgetting, (-0.2 + 0) / 2, 1e-15);
    EXPECT_NEAR(m.after(3).max_forgetting, (0.2 + 0) / 2, 1e-15);
}

TEST(ClMetrics, WhatIsNotMeasuredIsNaN)
{
    Matrix m(3);
    EXPECT_EQ(hn_cl_last(m), 0);
    m.row(1, {0.5}); /* only tasks that were learned are evaluated */
    m.row(2, {0.5, 0.6});
    EXPECT_EQ(hn_cl_last(m), 2);
    EXPECT_TRUE(std::isnan(hn_cl_accuracy(m, 1, 2)));
    EXPECT_TRUE(std::isnan(hn_cl_forward_transfer(m, 2)));
    EXPECT_TRUE(std::isnan(m.after(2).stream_forward_transfer));
    EXPECT_EQ(m.after(2).stream_forgetting, 0) << "nothing changed: exactly 0";
    EXPECT_TRUE(std::isnan(m.after(3).average_accuracy));
    EXPECT_TRUE(std::isnan(m.after(3).stream_forgetting));
    EXPECT_TRUE(std::isnan(m.after(3).max_forgetting));
    /* not defined */
    EXPECT_TRUE(std::isnan(hn_cl_forgetting(m, 2, 2)));
    EXPECT_TRUE(std::isnan(hn_cl_forgetting(m, 4, 2)));
    EXPECT_TRUE(std::isnan(hn_cl_bwt(m, 1, 2)));
    EXPECT_TRUE(std::isnan(hn_cl_forward_transfer(m, 1)));
    EXPECT_TRUE(std::isnan(hn_cl_forward_transfer(m, 4)));
    EXPECT_TRUE(std::isnan(hn_cl_accuracy(m, -1, 1)));
    EXPECT_TRUE(std::isnan(hn_cl_accuracy(m, 1, 0)));
}

TEST(ClMetrics, OneTask)
{
    Matrix m(1);
    m.row(1, {0.5});
    EXPECT_EQ(m.after(1).average_accuracy, 0.5);
    EXPECT_EQ(m.after(1).stream_forward_transfer, 0);
}

TEST(ClMetrics, RefusesBadArguments)
{
    Matrix m(3);
    hn_cl_summary s;
    hn_cl *c = nullptr;
    EXPECT_HN_FAIL(hn_cl_new(0, &c), HN_ERR_SHAPE, "0 tasks");
    EXPECT_HN_FAIL(hn_cl_new(10001, &c), HN_ERR_SHAPE, "10001 tasks");
    for (const double a : {-0.1, 1.1, 91.5, (double)NAN})
        EXPECT_HN_FAIL(hn_cl_put(m, 1, 1, a), HN_ERR_ARG, "not a share from 0 to 1");
    EXPECT_HN_FAIL(hn_cl_put(m, -1, 1, 0.5), HN_ERR_ARG, "task 1 after task -1 of 3");
    EXPECT_HN_FAIL(hn_cl_put(m, 4, 1, 0.5), HN_ERR_ARG, "task 1 after task 4 of 3");
    EXPECT_HN_FAIL(hn_cl_put(m, 1, 0, 0.5), HN_ERR_ARG, "task 0 after task 1 of 3");
    EXPECT_HN_FAIL(hn_cl_put(m, 1, 4, 0.5), HN_ERR_ARG, "task 4 after task 1 of 3");
    EXPECT_HN_FAIL(hn_cl_put(nullptr, 1, 1, 0.5), HN_ERR_ARG, "matrix");
    EXPECT_HN_FAIL(hn_cl_summarize(m, 0, &s), HN_ERR_ARG, "after task 0 of 3");
    EXPECT_HN_FAIL(hn_cl_summarize(m, 4, &s), HN_ERR_ARG, "after task 4 of 3");
    for (uint64_t n = 1; n <= 2; n++) {
        hn_alloc_fail_at(n);
        EXPECT_HN_FAIL(hn_cl_new(3, &c), HN_ERR_MEMORY, "3 tasks");
    }
    hn_alloc_fail_at(0);
    EXPECT_EQ(c, nullptr);
    hn_cl_free(nullptr);
}

/* ---- files ---- */

TEST(ClMetrics, WritesTheMatrix)
{
    TempDir t;
    Matrix m(3);
    m.row(0, {0.125});
    m.row(1, {1, 1.0 / 3});
    m.row(3, {0.5, 0.25, 0});
    ASSERT_HN_OK(hn_cl_save_accuracy_csv(m, (t / "a.csv").c_str()));
    EXPECT_EQ(read_file(t / "a.csv"), "after_task,task_1,task_2,task_3\n"
                                      "0,0.125,,\n1,1,0.333333333,\n3,0.5,0.25,0\n");
    Matrix empty(1);
    ASSERT_HN_OK(hn_cl_save_accuracy_csv(empty, (t / "a.csv").c_str()));
    EXPECT_EQ(read_file(t / "a.csv"), "after_task,task_1\n");
}

TEST(ClMetrics, WritesMetricsByName)
{
    TempDir t;
    Matrix m(2);
    m.row(0, {0.5, 0.25});
    m.row(1, {0.75, 0.5});
    m.row(2, {0.5, 1});
    ASSERT_HN_OK(hn_cl_save_metrics_csv(m, (t / "m.csv").c_str()));
    EXPECT_EQ(read_file(t / "m.csv"), "after_task,metric,task,value\n"
                                      "1,AverageAccuracy,,0.75\n"
                                      "1,AverageIncrementalAccuracy,,0.75\n"
                                      "1,StreamForgetting,,0\n"
                                      "1,StreamBWT,,0\n"
                                      "1,MaxForgetting,,0\n"
                                      "1,StreamForwardTransfer,,0.25\n"
                                      "1,Top1_Acc_Exp,1,0.75\n"
                                      "1,Top1_Acc_Exp,2,0.5\n"
                                      "1,ExperienceForwardTransfer,2,0.25\n"
                                      "2,AverageAccuracy,,0.75\n"
                                      "2,AverageIncrementalAccuracy,,0.75\n"
                                      "2,StreamForgetting,,0.25\n"
                                      "2,StreamBWT,,-0.25\n"
                                      "2,MaxForgetting,,0.25\n"
                                      "2,StreamForwardTransfer,,0.25\n"
                                      "2,Top1_Acc_Exp,1,0.5\n"
                                      "2,Top1_Acc_Exp,2,1\n"
                                      "2,ExperienceForgetting,1,0.25\n"
                                      "2,ExperienceBWT,1,-0.25\n"
                                      "2,ExperienceForwardTransfer,2,0.25\n");
}

TEST(ClMetrics, WritesACellAndReadsItsMatrix)
{
    TempDir t;
    Matrix m(3);
    fill(m);
    json_t *about = json_pack("{s:s, s:i, s:f}", "method", "pearl", "seed", 2, "T_E", 0.9);
    ASSERT_HN_OK(hn_cl_save_json(m, about, (t / "cell.json").c_str()));
    json_decref(about);
    json_t *cell = nullptr;
    ASSERT_HN_OK(hn_json_load((t / "cell.json").c_str(), &cell));
    EXPECT_STREQ(json_string_value(json_object_get(json_object_get(cell, "cell"), "method")),
                 "pearl");
    EXPECT_EQ(json_integer_value(json_object_get(cell, "after_task")), 3);
    const json_t *metrics = json_object_get(cell, "metrics");
    EXPECT_NEAR(json_real_value(json_object_get(metrics, "StreamForgetting")), 0.25, 1e-15);
    EXPECT_EQ(json_real_value(json_object_get(metrics, "AverageAccuracy")),
              m.after(3).average_accuracy);
    const json_t *forgetting = json_object_get(metrics, "ExperienceForgetting");
    ASSERT_EQ(json_array_size(forgetting), 3u);
    EXPECT_NEAR(json_real_value(json_array_get(forgetting, 1)), 0.4, 1e-15);
    EXPECT_TRUE(json_is_null(json_array_get(forgetting, 2)));

    hn_cl *back = nullptr;
    ASSERT_HN_OK(hn_cl_from_json(cell, "cell.json", &back));
    for (int64_t a = 0; a <= 3; a++)
        for (int64_t i = 1; i <= 3; i++)
            EXPECT_EQ(hn_cl_accuracy(back, a, i), hn_cl_accuracy(m, a, i)) << "to the last bit";
    hn_cl_free(back);
    json_decref(cell);
}

TEST(ClMetrics, ACellOfAnUnfinishedStreamHasNulls)
{
    TempDir t;
    Matrix m(2);
    ASSERT_HN_OK(hn_cl_save_json(m, nullptr, (t / "cell.json").c_str()));
    m.row(1, {0.5});
    ASSERT_HN_OK(hn_cl_save_json(m, nullptr, (t / "cell.json").c_str()));
    json_t *cell = nullptr;
    hn_cl *back = nullptr;
    ASSERT_HN_OK(hn_json_load((t / "cell.json").c_str(), &cell));
    const json_t *metrics = json_object_get(cell, "metrics");
    EXPECT_TRUE(json_is_null(json_object_get(metrics, "StreamForwardTransfer")));
    EXPECT_EQ(json_real_value(json_object_get(metrics, "AverageAccuracy")), 0.5);
    ASSERT_HN_OK(hn_cl_from_json(cell, "cell.json", &back));
    EXPECT_EQ(hn_cl_last(back), 1);
    EXPECT_TRUE(std::isnan(hn_cl_accuracy(back, 2, 2)));
    hn_cl_free(back);
    json_decref(cell);
}

TEST(ClMetrics, RefusesDamagedCells)
{
    const std::pair<const char *, const char *> cases[] = {
        {R"([])", "not a JSON object"},
        {R"({"accuracy": [[0.5], [0.5]]})", "'tasks' is missing"},
        {R"({"tasks": 0, "accuracy": []})", "'tasks' is 0"},
        {R"({"tasks": 100000, "accuracy": []})", "'tasks' is 100000"},
        {R"({"tasks": 1})", "'accuracy' has not 2 rows"},
        {R"({"tasks": 1, "accuracy": [[0.5]]})", "'accuracy' has not 2 rows"},
        {R"({"tasks": 1, "accuracy": [[0.5], 7]})", "row 1 of 'accuracy' has not 1 cells"},
        {R"({"tasks": 1, "accuracy": [[0.5, 1], [0.5]]})", "row 0 of 'accuracy' has not 1 cells"},
        {R"({"tasks": 1, "accuracy": [[0.5], [1.5]]})", "task 1 after task 1 is not a share"},
        {R"({"tasks": 1, "accuracy": [["x"], [0.5]]})", "task 1 after task 0 is not a share"}};
    for (const auto &[text, why] : cases) {
        json_t *v = nullptr;
        hn_cl *c = nullptr;
        ASSERT_HN_OK(hn_json_parse(text, strlen(text), "cell.json", &v));
        EXPECT_HN_FAIL(hn_cl_from_json(v, "cell.json", &c), HN_ERR_FORMAT, why);
        EXPECT_EQ(c, nullptr);
        json_decref(v);
    }
    Matrix m(1);
    json_t *array = json_array();
    EXPECT_HN_FAIL(hn_cl_save_json(m, array, "never.json"), HN_ERR_ARG, "not an object");
    json_decref(array);
}

TEST(ClMetrics, AFailedWriteLeavesTheOldFile)
{
    TempDir t;
    Matrix m(3);
    fill(m);
    const std::string path = t / "missing/a.csv";
    EXPECT_HN_FAIL(hn_cl_save_accuracy_csv(m, path.c_str()), HN_ERR_IO, "missing");
    EXPECT_HN_FAIL(hn_cl_save_metrics_csv(m, path.c_str()), HN_ERR_IO, "missing");
    EXPECT_HN_FAIL(hn_cl_save_json(m, nullptr, path.c_str()), HN_ERR_IO, "missing");
    write_file(t / "a.csv", "old");
    {
        FileSizeLimit full(20);
        EXPECT_HN_FAIL(hn_cl_save_accuracy_csv(m, (t / "a.csv").c_str()), HN_ERR_WRITE, "a.csv");
        EXPECT_HN_FAIL(hn_cl_save_metrics_csv(m, (t / "a.csv").c_str()), HN_ERR_WRITE, "a.csv");
        EXPECT_HN_FAIL(hn_cl_save_json(m, nullptr, (t / "a.csv").c_str()), HN_ERR_WRITE, "a.csv");
    }
    EXPECT_EQ(read_file(t / "a.csv"), "old");
}

/* ---- the table of ranks ---- */

hn_rank_row rank_row(int64_t task, const char *layer, int64_t rank, bool dense = false)
{
    return {task, layer, 64, 576, {rank, dense, rank * 640}, {10, 0.25, 0.5, 3.5, rank, rank + 1}};
}

TEST(RankTable, WritesRows)
{
    TempDir t;
    hn_rank_row rows[] = {rank_row(1, "layer1.conv1", 4), rank_row(2, "layer1.conv1", 57, true)};
    rows[1].near.distance = std::numeric_limits<double>::infinity();
    ASSERT_HN_OK(hn_rank_save_csv((t / "r.csv").c_str(), rows, 2));
    EXPECT_EQ(read_file(t / "r.csv"),
              "task,layer,rows,cols,rank,dense,parameters,distance,cosine,effective_rank,k_energy,"
              "k_reference,reference_norm\n"
              "1,layer1.conv1,64,576,4,0,2560,0.25,0.5,3.5,4,5,10\n"
              "2,layer1.conv1,64,576,57,1,36480,inf,0.5,3.5,57,58,10\n");
    for (const char *name : {"a,b", "a\"b", "a\nb", "a\x7f"}) {
        rows[0].layer = name;
        EXPECT_HN_FAIL(hn_rank_save_csv((t / "r.csv").c_str(), rows, 2), HN_ERR_ARG,
                       "cannot be a column");
    }
    for (const char *name : {"", (const char *)nullptr}) {
        rows[0].layer = name;
        EXPECT_HN_FAIL(hn_rank_save_csv((t / "r.csv").c_str(), rows, 2), HN_ERR_ARG,
                       "a layer without a name");
    }
    EXPECT_NE(read_file(t / "r.csv").find("57,1,36480"), std::string::npos) << "the old file stays";
    EXPECT_HN_FAIL(hn_rank_save_csv((t / "r.csv").c_str(), nullptr, 1), HN_ERR_ARG, "rows");
    ASSERT_HN_OK(hn_rank_save_csv((t / "r.csv").c_str(), nullptr, 0));
}

/* ---- its picture ---- */

bool there(const char *program)
{
    return system((std::string("command -v ") + program + " >/dev/null 2>&1").c_str()) == 0;
}

#define NEED_GNUPLOT()                                      \
    if (!there("gnuplot") || !there("python3") ||           \
        system("python3 -c 'import csv' 2>/dev/null") != 0) \
    GTEST_SKIP() << "no gnuplot or no python3"

int rank_map(const std::string &arguments, const std::string &errors)
{
    return system(("python3 scripts/tables/rank_map.py " + arguments + " 2>" + errors).c_str());
}

TEST(RankMap, DrawsATable)
{
    NEED_GNUPLOT();
    TempDir t;
    std::vector<hn_rank_row> rows;
    const char *const layers[] = {"stem.conv", "layer1.0.conv1", "layer1.0.conv2", "layer_2's"};
    for (int64_t task = 1; task <= 5; task++)
        for (int64_t l = 0; l < 4; l++)
            if (task != 3 || l != 2) /* one cell is empty */
                rows.push_back(rank_row(task, layers[l], task * l, task * l > 10));
    ASSERT_HN_OK(hn_rank_save_csv((t / "r.csv").c_str(), rows.data(), (int64_t)rows.size()));
    ASSERT_EQ(rank_map((t / "r.csv") + " " + (t / "map"), t / "errors"), 0)
        << read_file(t / "errors");
    EXPECT_EQ(read_file(t / "map.png").substr(1, 3), "PNG");
    const std::string svg = read_file(t / "map.svg");
    for (const char *text : {"stem.conv", "layer1.0.conv2", "layer_2", "task"})
        EXPECT_NE(svg.find(text), std::string::npos) << text;
    EXPECT_NE(svg.find("15 d"), std::string::npos) << "dense layers are marked";
}

TEST(RankMap, RefusesOtherFiles)
{
    NEED_GNUPLOT();
    TempDir t;
    const std::pair<const char *, const char *> cases[] = {
        {"", "has no columns task, layer, rank"},
        {"step,loss\n1,2\n", "has no columns task, layer, rank"},
        {"task,layer,rank\n", "has no rows"},
        {"task,layer,rank\n1,a,x\n", "line 2"},
        {"task,layer,rank\n1,a,1\n1,a,2\n", "line 3: a second rank"}};
    for (const auto &[text, why] : cases) {
        write_file(t / "r.csv", text);
        EXPECT_NE(rank_map((t / "r.csv") + " " + (t / "map"), t / "errors"), 0);
        EXPECT_NE(read_file(t / "errors").find(why), std::string::npos) << read_file(t / "errors");
        EXPECT_EQ(read_file(t / "errors").find("Traceback"), std::string::npos);
    }
    EXPECT_NE(rank_map((t / "none.csv") + " " + (t / "map"), t / "errors"), 0);
    EXPECT_NE(rank_map("", t / "errors"), 0);
}

} // namespace
