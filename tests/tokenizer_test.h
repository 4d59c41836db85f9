/* tokenizer_test.h - a loaded tokenizer for tests. */
#ifndef HN_TOKENIZER_TEST_H
#define HN_TOKENIZER_TEST_H
#include "hn_test.h"
#include "runtime/data/tokenizer.h"

class Tokenizer {
    hn_tokenizer *t_ = nullptr;

  public:
    explicit Tokenizer(const std::string &path)
    {
        EXPECT_HN_OK(hn_tokenizer_load(path.c_str(), &t_));
    }
    explicit Tokenizer(hn_tokenizer *t) : t_(t) {}
    Tokenizer(const Tokenizer &) = delete;
    ~Tokenizer() { hn_tokenizer_free(t_); }
    const hn_tokenizer *get() const { return t_; }
    explicit operator bool() const { return t_ != nullptr; }

    std::vector<int32_t> encode(const std::string &text, unsigned flags = 0) const
    {
        hn_tokens out = {};
        EXPECT_HN_OK(hn_tokenizer_encode(t_, text.data(), text.size(), flags, &out));
        std::vector<int32_t> v(out.id, out.id + out.n);
        hn_tokens_free(&out);
        return v;
    }
    std::string decode(const std::vector<int32_t> &ids, bool skip_special = false) const
    {
        hn_text out = {};
        EXPECT_HN_OK(hn_tokenizer_decode(t_, ids.data(), (int64_t)ids.size(), skip_special, &out));
        std::string s(out.s != nullptr ? out.s : "", out.n);
        hn_text_free(&out);
        return s;
    }
    /* Whether the decoder can work token by token. */
    bool streams() const
    {
        hn_detok state = {};
        hn_text out = {};
        const hn_status st = hn_tokenizer_decode_end(t_, &state, &out);
        hn_text_free(&out);
        return st == HN_OK;
    }
    /* The same, token by token. */
    std::string stream(const std::vector<int32_t> &ids, bool skip_special = false) const
    {
        hn_text out = {};
        hn_detok state = {};
        state.skip_special = skip_special;
        for (const int32_t id : ids) EXPECT_HN_OK(hn_tokenizer_decode_next(t_, &state, id, &out));
        EXPECT_HN_OK(hn_tokenizer_decode_end(t_, &state, &out));
        std::string s(out.s != nullptr ? out.s : "", out.n);
        hn_text_free(&out);
        return s;
    }
};
#endif
