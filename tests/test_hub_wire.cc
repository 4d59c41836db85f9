/* What the ranks of a hub send each other, as bytes, and the file through which they meet. */
#include "hub_test.h"
#include "runtime/comm/hub_impl.h"

namespace {

hn_hub_key key_of(const char *job, const char *secret)
{
    hn_hub_key k = {};
    EXPECT_HN_OK(hn_hub_key_make(job, secret, &k));
    return k;
}

std::string tag_of(const hn_hub_key &k)
{
    char hex[65] = "";
    EXPECT_HN_OK(hn_hub_key_tag(&k, hex));
    return hex;
}

TEST(HubWire, TagsDifferByJobAndSecret)
{
    const std::string tag = tag_of(key_of("job", "secret"));
    EXPECT_EQ(tag.size(), 64u);
    EXPECT_EQ(tag, tag_of(key_of("job", "secret")));
    EXPECT_NE(tag, tag_of(key_of("job", nullptr)));
    EXPECT_NE(tag, tag_of(key_of("jobs", "ecret")));
    EXPECT_NE(tag, tag_of(key_of("other", "secret")));
    EXPECT_EQ(tag_of(key_of("job", nullptr)), tag_of(key_of("job", "")));
}

class HubHello : public testing::Test {
  protected:
    hn_hub_key key = key_of("job", "secret");
    uint8_t greeting[HN_HUB_GREETING] = {}, bytes[HN_HUB_HELLO] = {};
    hn_hub_hello me = {HN_HUB_WATCH, 3, 8, "1.2.3", "gnode7"}, got = {};
    void SetUp() override
    {
        ASSERT_HN_OK(hn_hub_greeting_make(greeting));
        ASSERT_HN_OK(hn_hub_hello_make(&key, greeting, &me, bytes));
    }
};

TEST_F(HubHello, ComesBackAsItWas)
{
    ASSERT_EQ(hn_hub_hello_read(&key, greeting, bytes, &got), HN_HUB_PEER_OK);
    EXPECT_EQ(got.channel, HN_HUB_WATCH);
    EXPECT_EQ(got.rank, 3);
    EXPECT_EQ(got.size, 8);
    EXPECT_STREQ(got.version, "1.2.3");
    EXPECT_STREQ(got.host, "gnode7");
}

TEST_F(HubHello, EveryChangedBitIsFound)
{
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ASSERT_NE(hn_hub_hello_read(&key, greeting, bytes, &got), HN_HUB_PEER_OK) << bit;
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    EXPECT_EQ(got.rank, 0); /* untouched */
}

TEST_F(HubHello, HoldsForItsGreetingAndJobOnly)
{
    uint8_t other[HN_HUB_GREETING];
    ASSERT_HN_OK(hn_hub_greeting_make(other));
    EXPECT_NE(std::memcmp(greeting, other, sizeof other), 0);
    EXPECT_EQ(hn_hub_hello_read(&key, other, bytes, &got), HN_HUB_PEER_SECRET);
    hn_hub_key k = key_of("job", "guess");
    EXPECT_EQ(hn_hub_hello_read(&k, greeting, bytes, &got), HN_HUB_PEER_SECRET);
    k = key_of("other", "secret");
    EXPECT_EQ(hn_hub_hello_read(&k, greeting, bytes, &got), HN_HUB_PEER_JOB);
}

TEST_F(HubHello, RanksOutOfReachAreStrangers)
{
    for (const int bad : {(int)HN_HUB_MAX_RANKS, -1, INT32_MAX}) {
        me.rank = bad;
        ASSERT_HN_OK(hn_hub_hello_make(&key, greeting, &me, bytes));
        EXPECT_EQ(hn_hub_hello_read(&key, greeting, bytes, &got), HN_HUB_PEER_STRANGER);
    }
}

TEST_F(HubHello, NamesAreOneLineAndEnd)
{
    std::memset(me.host, 'x', sizeof me.host); /* no final zero */
    std::memcpy(me.host, "a\n\033[2J", 6);
    std::memset(me.version, '\t', sizeof me.version);
    ASSERT_HN_OK(hn_hub_hello_make(&key, greeting, &me, bytes));
    ASSERT_EQ(hn_hub_hello_read(&key, greeting, bytes, &got), HN_HUB_PEER_OK);
    EXPECT_EQ(std::string(got.host), "a??[2J" + std::string(HN_HUB_HOST_TEXT - 7, 'x'));
    EXPECT_EQ(std::string(got.version), std::string(HN_HUB_VERSION_TEXT - 1, '?'));
}

TEST_F(HubHello, AnswersAreProved)
{
    uint8_t answer[HN_HUB_ANSWER];
    char text[HN_HUB_ANSWER_TEXT];
    const std::string longest(200, 'y');
    ASSERT_HN_OK(hn_hub_answer_make(&key, bytes, HN_HUB_PEER_REFUSED, longest.c_str(), answer));
    EXPECT_EQ(hn_hub_answer_read(&key, bytes, answer, text), HN_HUB_PEER_REFUSED);
    EXPECT_EQ(std::string(text), longest.substr(0, HN_HUB_ANSWER_TEXT - 1));
    ASSERT_HN_OK(hn_hub_answer_make(&key, bytes, HN_HUB_PEER_OK, "host", answer));
    EXPECT_EQ(hn_hub_answer_read(&key, bytes, answer, text), HN_HUB_PEER_OK);
    EXPECT_STREQ(text, "host");
    for (size_t i = 0; i < sizeof answer; i++) {
        answer[i] ^= 1;
        EXPECT_NE(hn_hub_answer_read(&key, bytes, answer, text), HN_HUB_PEER_OK) << i;
        answer[i] ^= 1;
    }
    /* who does not know the secret can refuse nobody */
    const hn_hub_key thief = key_of("job", "guess");
    ASSERT_HN_OK(hn_hub_answer_make(&thief, bytes, HN_HUB_PEER_REFUSED, "go away", answer));
    EXPECT_EQ(hn_hub_answer_read(&key, bytes, answer, text), HN_HUB_PEER_SECRET);
    EXPECT_STREQ(text, "");
}

TEST(HubWire, FramesComeBackAndHostileOnesAreNone)
{
    const hn_hub_frame f = {HN_HUB_BEAT, 0, {HN_HUB_AT_SAVE, true, 1234567890123, 77}};
    uint8_t bytes[HN_HUB_FRAME];
    hn_hub_frame got = {};
    hn_hub_frame_write(&f, bytes);
    ASSERT_TRUE(hn_hub_frame_read(bytes, &got));
    EXPECT_EQ(got.kind, f.kind);
    EXPECT_EQ(got.at.phase, HN_HUB_AT_SAVE);
    EXPECT_TRUE(got.at.waiting);
    EXPECT_EQ(got.at.step, 1234567890123);
    EXPECT_EQ(got.at.age_ms, 77);
    auto none = [&](const std::function<void(hn_hub_frame &)> &change) {
        hn_hub_frame bad = f;
        change(bad);
        hn_hub_frame_write(&bad, bytes);
        EXPECT_FALSE(hn_hub_frame_read(bytes, &got));
    };
    none([](auto &b) { b.kind = (hn_hub_frame_kind)0; });
    none([](auto &b) { b.kind = (hn_hub_frame_kind)6; });
    none([](auto &b) { b.n_text = HN_HUB_TEXT; });
    none(
        [](auto &b) { b.kind = HN_HUB_START, b.n_text = HN_HUB_MAX_RANKS * HN_HUB_HOST_TEXT + 1; });
    none([](auto &b) { b.at.phase = HN_HUB_PHASES; });
    none([](auto &b) { b.at.step = -2; });
    none([](auto &b) { b.at.age_ms = -1; });
}

TEST(HubWire, HeadsComeBackAndHostileOnesAreNone)
{
    const hn_hub_head h = {HN_HUB_SHARE, 7, 1ull << 40, UINT64_MAX};
    uint8_t bytes[HN_HUB_HEAD];
    hn_hub_head got = {};
    hn_hub_head_write(&h, bytes);
    ASSERT_TRUE(hn_hub_head_read(bytes, &got));
    EXPECT_EQ(got.op, h.op);
    EXPECT_EQ(got.root, 7);
    EXPECT_EQ(got.number, h.number);
    EXPECT_EQ(got.n_bytes, h.n_bytes);
    for (const size_t at : {0, 3, 7, 31}) { /* magic, operation, root, zeros */
        bytes[at] ^= 0x80;
        EXPECT_FALSE(hn_hub_head_read(bytes, &got)) << at;
        bytes[at] ^= 0x80;
    }
}

TEST(HubWire, MissingRanksAreRanges)
{
    auto missing = [](const std::string &here, size_t room = 100) {
        bool flag[64];
        std::vector<char> text(room);
        for (size_t i = 0; i < here.size(); i++) flag[i] = here[i] == '1';
        hn_hub_missing(flag, (int)here.size(), text.data(), room);
        return std::string(text.data());
    };
    EXPECT_EQ(missing("111"), "");
    EXPECT_EQ(missing("101"), "1");
    EXPECT_EQ(missing("10010001"), "1-2, 4-6");
    EXPECT_EQ(missing("1000"), "1-3");
    EXPECT_EQ(missing("1010101010", 12), "1, 3, 5 ...");
}

TEST(HubWire, RendezvousFilesNameAddressesOfTheJob)
{
    TempDir dir;
    const std::string path = dir / "meet";
    const hn_hub_key key = key_of("job", "secret"), other = key_of("job", "guess");
    hn_hub_places p = {};
    EXPECT_HN_FAIL(hn_hub_file_read(path.c_str(), &key, &p), HN_ERR_IO, "No such file");
    ASSERT_HN_OK(hn_hub_file_write(path.c_str(), &key, true, 4711));
    ASSERT_HN_OK(hn_hub_file_read(path.c_str(), &key, &p));
    ASSERT_EQ(p.n, 2);
    EXPECT_STREQ(p.place[0].host, "127.0.0.1");
    EXPECT_STREQ(p.place[1].host, "::1");
    EXPECT_STREQ(p.place[1].port, "4711");
    EXPECT_HN_FAIL(hn_hub_file_read(path.c_str(), &other, &p), HN_ERR_FORMAT, "of another job");
    const std::string good = read_file(path), head = good.substr(0, 76);
    EXPECT_EQ(good.find("secret"), std::string::npos);
    const std::pair<std::string, const char *> bad[] = {
        {"", "no rendezvous file"},
        {"hone-hub 2\n" + good.substr(11), "no rendezvous file"},
        {head, "no address"},
        {head + "host:80", "cut off"},
        {head + "host:80\nhost:0\n", "line 4: address 'host:0'"},
        {head + "host\n", "line 3: address 'host'"},
        {head + std::string("a\0b:80\n", 7), "no rendezvous file"},
        {head + std::string(6000, 'x'), "no rendezvous file"},
    };
    for (const auto &[text, why] : bad) {
        write_file(path, text);
        EXPECT_HN_FAIL(hn_hub_file_read(path.c_str(), &key, &p), HN_ERR_FORMAT, why);
    }
    EXPECT_EQ(p.n, 2); /* untouched */
    std::string many = head;
    for (int i = 1; i < 40; i++) many += "h:" + std::to_string(i) + "\n";
    write_file(path, many);
    ASSERT_HN_OK(hn_hub_file_read(path.c_str(), &key, &p));
    EXPECT_EQ(p.n, (int)HN_HUB_PLACES);
    EXPECT_HN_FAIL(hn_hub_file_write((dir / "no/such/folder").c_str(), &key, true, 1), HN_ERR_IO,
                   "no/such/folder");
}

} // namespace
