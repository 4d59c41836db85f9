/* hn_test.h - what the tests share. Test code is C++, the library it calls is C. */
#ifndef HN_TEST_H
#define HN_TEST_H
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/base/bf16.h"
#include "runtime/base/dtype.h"
#include "runtime/base/status.h"

#define ASSERT_HN_OK(call) ASSERT_EQ((call), HN_OK) << hn_last_error()
#define EXPECT_HN_OK(call) EXPECT_EQ((call), HN_OK) << hn_last_error()

/* The call fails with that code and the error text contains `part`. */
#define EXPECT_HN_FAIL(call, code, part)                            \
    do {                                                            \
        EXPECT_EQ((call), (code)) << hn_last_error();               \
        EXPECT_NE(std::strstr(hn_last_error(), (part)), nullptr)    \
            << "'" << (part) << "' is not in: " << hn_last_error(); \
    } while (0)

/* Folder of the real data sets, "" when it is not there. Tests run from the project's root. */
inline std::string data_dir(const std::string &sub)
{
    const char *env = std::getenv("HONE_DATA");
    const std::filesystem::path p = std::filesystem::path(env ? env : "../shared/data") / sub;
    return std::filesystem::exists(p) ? p.string() : "";
}

#define HN_NEED_DATA(variable, sub)             \
    const std::string variable = data_dir(sub); \
    if (variable.empty()) GTEST_SKIP() << "no data: set HONE_DATA to have " << sub

/* Where tests of the engine and of the programs run: HONE_TEST_DEVICE, else the CPU. */
inline const char *test_device()
{
    const char *env = std::getenv("HONE_TEST_DEVICE");
    return env ? env : "cpu";
}

/* A folder of its own for each test, removed afterwards. */
class TempDir {
    std::filesystem::path path_;

  public:
    TempDir()
    {
        std::string t = (std::filesystem::temp_directory_path() / "hone-test-XXXXXX").string();
        EXPECT_NE(mkdtemp(t.data()), nullptr);
        path_ = t;
    }
    TempDir(const TempDir &) = delete;
    ~TempDir()
    {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    std::string operator/(const std::string &name) const { return (path_ / name).string(); }
    std::string str() const { return path_.string(); }
};

inline std::string read_file(const std::string &path)
{
    std::ifstream f(path, std::ios::binary);
    std::ostringstream s;
    s << f.rdbuf();
    return s.str();
}

inline void write_file(const std::string &path, const std::string &bytes)
{
    std::ofstream(path, std::ios::binary).write(bytes.data(), (std::streamsize)bytes.size());
}

/* Host array between two guard bands. Fresh memory is all 0xff: NaN in bf16 and fp32, so an
 * element that was never written cannot pass a comparison. */
template <class T>
class GuardedArray {
    static constexpr size_t kGuard = 256;
    std::vector<unsigned char> raw_;
    size_t n_, offset_;

  public:
    explicit GuardedArray(size_t n) : raw_(n * sizeof(T) + 2 * kGuard + 64, 0xff), n_(n)
    {
        const auto at = reinterpret_cast<uintptr_t>(raw_.data()) + kGuard;
        offset_ = kGuard + (64 - at % 64) % 64;
    }
    explicit GuardedArray(const std::vector<T> &h) : GuardedArray(h.size())
    {
        if (!h.empty()) std::memcpy(data(), h.data(), h.size() * sizeof(T));
    }
    GuardedArray(const GuardedArray &) = delete;
    size_t size() const { return n_; }
    T *data() { return reinterpret_cast<T *>(raw_.data() + offset_); }
    /* The values, after checking that nothing was written outside. */
    std::vector<T> host()
    {
        for (size_t i = 0; i < offset_; i++)
            if (raw_[i] != 0xff) ADD_FAILURE() << "wrote before the array";
        for (size_t i = offset_ + n_ * sizeof(T); i < raw_.size(); i++)
            if (raw_[i] != 0xff) ADD_FAILURE() << "wrote behind the array";
        std::vector<T> h(n_);
        if (n_ > 0) std::memcpy(h.data(), data(), n_ * sizeof(T));
        return h;
    }
};

inline double as_double(float v) { return (double)v; }
inline double as_double(double v) { return v; }
inline double as_double(hn_bf16 v) { return (double)hn_bf16_to_f32(v); }

template <class T>
bool same_bits(const std::vector<T> &a, const std::vector<T> &b)
{
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/* |got - want| / |want| in the 2-norm; NaN if any element is NaN. */
template <class T, class U>
double rel_l2(const std::vector<T> &got, const std::vector<U> &want)
{
    double err = 0, ref = 0;
    if (got.size() != want.size()) return NAN;
    for (size_t i = 0; i < want.size(); i++) {
        const double d = as_double(got[i]) - as_double(want[i]);
        err += d * d;
        ref += as_double(want[i]) * as_double(want[i]);
    }
    return ref > 0 ? std::sqrt(err / ref) : std::sqrt(err);
}

/* Largest |got - want|; NaN if any element is NaN. */
template <class T, class U>
double max_abs(const std::vector<T> &got, const std::vector<U> &want)
{
    double worst = 0;
    if (got.size() != want.size()) return NAN;
    for (size_t i = 0; i < want.size(); i++) {
        const double d = std::fabs(as_double(got[i]) - as_double(want[i]));
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

inline std::vector<hn_bf16> to_bf16(const std::vector<float> &v)
{
    std::vector<hn_bf16> b(v.size());
    for (size_t i = 0; i < v.size(); i++) b[i] = hn_bf16_from_f32(v[i]);
    return b;
}

inline std::vector<float> normal_f32(size_t n, unsigned seed, float mean = 0, float sd = 1)
{
    std::mt19937 rng(seed);
    std::normal_distribution<float> d(mean, sd);
    std::vector<float> v(n);
    for (auto &e : v) e = d(rng);
    return v;
}

inline std::vector<hn_bf16> normal_bf16(size_t n, unsigned seed, float mean = 0, float sd = 1)
{
    return to_bf16(normal_f32(n, seed, mean, sd));
}
#endif
