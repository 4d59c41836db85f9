/* runtime/base: progress line and clock. */
#include "hn_test.h"
#include "runtime/base/clock.h"
#include "runtime/base/progress.h"

namespace {

/* A progress line that writes into a file and reads a clock moved by hand. */
struct Line {
    FILE *file = std::tmpfile();
    int64_t time_ns = 0;
    hn_progress_config config = {};
    hn_progress p = {};
    Line()
    {
        config.to = file;
        config.width = 80;
        config.now_ns = [](void *t) { return *(int64_t *)t; };
        config.context = &time_ns;
    }
    Line(const Line &) = delete;
    ~Line() { std::fclose(file); }
    void wait(double s) { time_ns += (int64_t)(s * 1e9); }
    std::string text()
    {
        std::string s((size_t)std::ftell(file), '\0');
        std::rewind(file);
        s.resize(std::fread(s.data(), 1, s.size(), file));
        return s;
    }
};

size_t count(const std::string &s, const std::string &part)
{
    size_t n = 0;
    for (size_t at = s.find(part); at != std::string::npos; at = s.find(part, at + 1)) n++;
    return n;
}

TEST(ProgressLine, ShowsRateAndRemainingTime)
{
    Line l;
    l.config.every = 1;
    l.config.unit = "tokens";
    hn_progress_start(&l.p, &l.config, 0, 100);
    l.wait(2);
    hn_progress_update(&l.p, 10, 5000, "loss 2.5");
    EXPECT_EQ(l.text(), "step 10/100  10%  loss 2.5  2.5k tokens/s  18s left\n");
    EXPECT_DOUBLE_EQ(hn_progress_steps_per_s(&l.p), 5);
    EXPECT_DOUBLE_EQ(hn_progress_units_per_s(&l.p), 2500);
}

TEST(ProgressLine, PlainOutputKeepsToItsInterval)
{
    Line l;
    l.config.every = 10;
    hn_progress_start(&l.p, &l.config, 0, 95);
    for (int i = 1; i <= 95; i++) {
        l.wait(1);
        hn_progress_update(&l.p, i, 0, nullptr);
    }
    hn_progress_end(&l.p);
    const std::string s = l.text();
    EXPECT_EQ(count(s, "\n"), 10u) << s; /* 10, 20, ... 90 and the last one */
    EXPECT_EQ(count(s, "step 95/95  100%\n"), 1u) << s;
    EXPECT_EQ(count(s, "\r") + count(s, "\033"), 0u);
}

TEST(ProgressLine, PlainOutputSpeaksAfterSeconds)
{
    Line l;
    l.config.every_s = 30;
    hn_progress_start(&l.p, &l.config, 0, 0);
    for (int i = 1; i <= 100; i++) {
        l.wait(1);
        hn_progress_update(&l.p, i, 0, nullptr);
    }
    EXPECT_EQ(l.text(), "step 30\nstep 60\nstep 90\n");
}

TEST(ProgressLine, TerminalIsRewrittenAtMostTenTimesASecond)
{
    Line l;
    l.config.is_tty = true;
    hn_progress_start(&l.p, &l.config, 0, 1000);
    for (int i = 1; i < 1000; i++) {
        l.wait(0.01);
        hn_progress_update(&l.p, i, 0, nullptr);
    }
    const std::string running = l.text();
    EXPECT_EQ(count(running, "step "), 100u);
    EXPECT_EQ(count(running, "\r\033[K"), 99u);
    EXPECT_EQ(count(running, "\n"), 0u);
    l.wait(0.001);
    hn_progress_update(&l.p, 1000, 0, nullptr); /* the last one is always shown */
    hn_progress_end(&l.p);
    hn_progress_end(&l.p);
    const std::string s = l.text();
    EXPECT_EQ(s.substr(s.rfind("step")), "step 1000/1000  100%\n");
}

TEST(ProgressLine, IsCutAtTheWidthOfTheTerminal)
{
    Line l;
    l.config.is_tty = true;
    l.config.width = 20;
    hn_progress_start(&l.p, &l.config, 0, 0);
    hn_progress_update(&l.p, 7, 0, "\xc3\xa9\xc3\xa9\xc3\xa9\nthe rest does not fit");
    EXPECT_EQ(l.text(), "step 7  \xc3\xa9\xc3\xa9\xc3\xa9 the res");
}

TEST(ProgressLine, LongDetailIsCutInPlainOutput)
{
    Line l;
    l.config.every = 1;
    hn_progress_start(&l.p, &l.config, 0, 0);
    hn_progress_update(&l.p, 1, 0, std::string(5000, 'x').c_str());
    const std::string s = l.text();
    EXPECT_LT(s.size(), 520u);
    EXPECT_EQ(s.back(), '\n');
}

TEST(ProgressLine, ColoursOnlyWhenAsked)
{
    Line l;
    l.config.is_tty = l.config.color = true;
    hn_progress_start(&l.p, &l.config, 0, 0);
    hn_progress_update(&l.p, 1, 0, nullptr);
    EXPECT_EQ(l.text(), "\033[36mstep 1\033[0m");
}

TEST(ProgressLine, OtherLinesGoAboveIt)
{
    Line l;
    l.config.is_tty = true;
    hn_progress_start(&l.p, &l.config, 0, 0);
    hn_progress_say(&l.p, "first");
    hn_progress_update(&l.p, 1, 0, nullptr);
    hn_progress_say(&l.p, "second");
    hn_progress_update(&l.p, 2, 0, nullptr);
    EXPECT_EQ(l.text(), "first\nstep 1\r\033[Ksecond\nstep 2");
}

TEST(ProgressLine, SilentWithoutAStream)
{
    Line l;
    l.config.to = nullptr;
    hn_progress_start(&l.p, &l.config, 0, 10);
    l.wait(1);
    hn_progress_update(&l.p, 5, 0, "loss");
    hn_progress_say(&l.p, "text");
    hn_progress_end(&l.p);
    EXPECT_EQ(l.text(), "");
    EXPECT_DOUBLE_EQ(hn_progress_left_s(&l.p), 1);
}

TEST(ProgressRate, CountsFromTheResumedStep)
{
    Line l;
    hn_progress_start(&l.p, &l.config, 500, 1000);
    EXPECT_EQ(hn_progress_left_s(&l.p), -1);
    l.wait(10);
    hn_progress_update(&l.p, 510, 0, nullptr);
    EXPECT_DOUBLE_EQ(hn_progress_left_s(&l.p), 490);
}

TEST(ProgressRate, PausesDoNotCount)
{
    Line l;
    hn_progress_start(&l.p, &l.config, 0, 100);
    l.wait(1);
    hn_progress_pause(&l.p);
    l.wait(1000);
    hn_progress_resume(&l.p);
    hn_progress_resume(&l.p);
    l.wait(1);
    hn_progress_update(&l.p, 4, 0, nullptr);
    EXPECT_NEAR(hn_progress_steps_per_s(&l.p), 2, 1e-9);
}

TEST(ProgressRate, ForgetsOldSpeed)
{
    Line l;
    hn_progress_start(&l.p, &l.config, 0, 100000);
    int64_t done = 0;
    for (int i = 0; i < 100; i++) l.wait(1), hn_progress_update(&l.p, done += 1, 0, nullptr);
    for (int i = 0; i < 100; i++) l.wait(1), hn_progress_update(&l.p, done += 10, 0, nullptr);
    EXPECT_NEAR(hn_progress_steps_per_s(&l.p), 10, 0.1); /* exp(-100 s / 20 s) of the old rate */
}

TEST(ProgressRate, StepsWithinOneTickOfTheClockAreNotLost)
{
    Line l;
    l.config.every = 1;
    hn_progress_start(&l.p, &l.config, 0, 4);
    hn_progress_update(&l.p, 2, 0, nullptr);
    l.wait(2);
    hn_progress_update(&l.p, 3, 0, nullptr);
    EXPECT_DOUBLE_EQ(hn_progress_steps_per_s(&l.p), 1.5);
    hn_progress_update(&l.p, 4, 0, nullptr);
    EXPECT_EQ(count(l.text(), "step 4/4  100%\n"), 1u);
}

TEST(ProgressText, DurationsAndNumbersAreShort)
{
    char out[HN_SHORT_TEXT];
    const auto duration = [&](double s) { return hn_short_duration(s, out), std::string(out); };
    EXPECT_EQ(duration(-1), "0s");
    EXPECT_EQ(duration(59.4), "59s");
    EXPECT_EQ(duration(125), "2m 05s");
    EXPECT_EQ(duration(3600 * 3 + 7 * 60), "3h 07m");
    EXPECT_EQ(duration(86400 * 2 + 3600), "2d 01h");
    EXPECT_EQ(duration(1e300), "9999d 00h");
    EXPECT_EQ(duration(NAN), "0s");
    const auto number = [&](double v) { return hn_short_number(v, out), std::string(out); };
    EXPECT_EQ(number(0), "0");
    EXPECT_EQ(number(12.34), "12.3");
    EXPECT_EQ(number(999.4), "999");
    EXPECT_EQ(number(999.6), "1k");
    EXPECT_EQ(number(1234), "1.23k");
    EXPECT_EQ(number(4.56e6), "4.56M");
}

TEST(ProgressDetect, AFileIsNoTerminal)
{
    FILE *f = std::tmpfile();
    const hn_progress_config c = hn_progress_detect(f);
    EXPECT_FALSE(c.is_tty);
    EXPECT_FALSE(c.color);
    EXPECT_GT(c.every, 0);
    std::fclose(f);
    EXPECT_FALSE(hn_progress_detect(nullptr).is_tty);
}

TEST(Clock, GoesForwardAndDatesAreUtc)
{
    const int64_t a = hn_clock_ns();
    EXPECT_GE(hn_clock_ns(), a);
    EXPECT_GT(hn_clock_wall_s(), 1.7e9);
    char date[HN_DATE_TEXT];
    hn_clock_date(0, date);
    EXPECT_STREQ(date, "1970-01-01T00:00:00Z");
    hn_clock_date(951782400.9, date);
    EXPECT_STREQ(date, "2000-02-29T00:00:00Z");
    hn_clock_date(1e300, date);
    EXPECT_STREQ(date, "");
}

} // namespace
