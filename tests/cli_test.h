/* cli_test.h - runs the programs themselves, on a small model of the fixtures.
 *
 * Programs are found in $HONE_BIN (ctest sets it), else in build/. */
#ifndef HN_CLI_TEST_H
#define HN_CLI_TEST_H
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <map>
#include <thread>

#include "hn_test.h"
#include "runtime/file/safetensors.h"

using Words = std::vector<std::string>;

inline Words operator+(Words a, const Words &b)
{
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

/* With HONE_TEST_DEVICE (and HONE_TEST_EXECUTOR) runs go there, unless they say where themselves.
 */
inline Words with_device(Words words)
{
    const char *device = std::getenv("HONE_TEST_DEVICE"), *how = std::getenv("HONE_TEST_EXECUTOR");
    const std::string verb = words.size() > 1 ? words[1] : "";
    const bool runs = verb == "train" || verb == "eval" || verb == "generate";
    if (device == nullptr || !runs) return words;
    for (const auto &w : words)
        if (w == "--device") return words;
    words.insert(words.end(), {"--device", device});
    if (how != nullptr) words.insert(words.end(), {"--executor", how});
    return words;
}

struct Ran {
    int code = -1;  /* exit code; -1: ended by a signal */
    int signal = 0; /* that ended it */
    std::string out, err;
};

/* A program in the background. Environment: that of the test, one thread, and a cache of its own
 * so that nobody's home is touched. */
class Program {
    pid_t pid_ = -1;
    int out_ = -1, err_ = -1;
    Ran ran_;

    static int64_t now_ms()
    {
        using namespace std::chrono;
        return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
    }
    static bool read_some(int &fd, std::string &to)
    {
        char buffer[65536];
        const ssize_t n = read(fd, buffer, sizeof buffer);
        if (n > 0) to.append(buffer, (size_t)n);
        if (n > 0) return true;
        close(fd);
        fd = -1;
        return false;
    }
    /* Takes in what arrives within the time; false when both streams have ended. */
    bool pump(int timeout_ms)
    {
        struct pollfd p[2] = {{out_, POLLIN, 0}, {err_, POLLIN, 0}};
        if (out_ < 0 && err_ < 0) return false;
        if (poll(p, 2, timeout_ms) > 0) {
            if (p[0].revents) read_some(out_, ran_.out);
            if (p[1].revents) read_some(err_, ran_.err);
        }
        return out_ >= 0 || err_ >= 0;
    }

  public:
    /* Runs in the folder `in` ("": the test's own); standard output may go to a file. */
    Program(const Words &given, const std::string &home, const char *stdout_path = nullptr,
            const std::string &in = "")
    {
        const Words words = with_device(given);
        const char *bin = std::getenv("HONE_BIN");
        const std::string path =
            std::filesystem::absolute(std::string(bin ? bin : "build") + "/" + words[0]).string();
        std::vector<char *> argv, envp;
        Words environment = {"XDG_CACHE_HOME=" + home + "/.cache", "HOME=" + home,
                             "OMP_NUM_THREADS=1", "CUDA_CACHE_DISABLE=1"};
        for (char **e = environ; *e; e++)
            if (std::strncmp(*e, "XDG_", 4) != 0 && std::strncmp(*e, "HOME=", 5) != 0 &&
                std::strncmp(*e, "OMP_", 4) != 0)
                environment.push_back(*e);
        for (const auto &w : words) argv.push_back(const_cast<char *>(w.c_str()));
        for (const auto &e : environment) envp.push_back(const_cast<char *>(e.c_str()));
        argv[0] = const_cast<char *>(path.c_str());
        argv.push_back(nullptr);
        envp.push_back(nullptr);
        int out[2], err[2];
        EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
        EXPECT_EQ(pipe2(err, O_CLOEXEC), 0);
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
        if (!in.empty()) posix_spawn_file_actions_addchdir_np(&actions, in.c_str());
        if (stdout_path != nullptr)
            posix_spawn_file_actions_addopen(&actions, 1, stdout_path, O_WRONLY, 0);
        else
            posix_spawn_file_actions_adddup2(&actions, out[1], 1);
        posix_spawn_file_actions_adddup2(&actions, err[1], 2);
        posix_spawnattr_t plain; /* the test's own handling of signals is not inherited */
        sigset_t defaults;
        sigemptyset(&defaults);
        sigaddset(&defaults, SIGXFSZ);
        posix_spawnattr_init(&plain);
        posix_spawnattr_setsigdefault(&plain, &defaults);
        posix_spawnattr_setflags(&plain, POSIX_SPAWN_SETSIGDEF);
        const int failed =
            posix_spawn(&pid_, path.c_str(), &actions, &plain, argv.data(), envp.data());
        posix_spawnattr_destroy(&plain);
        posix_spawn_file_actions_destroy(&actions);
        close(out[1]);
        close(err[1]);
        out_ = out[0];
        err_ = err[0];
        if (failed) ADD_FAILURE() << path << ": " << std::strerror(failed) << "; set HONE_BIN";
        if (failed) pid_ = -1;
    }
    Program(const Program &) = delete;
    ~Program()
    {
        if (pid_ > 0) {
            kill(SIGKILL);
            wait();
        }
    }

    pid_t pid() const { return pid_; }
    void kill(int number) const
    {
        if (pid_ > 0) ::kill(pid_, number);
    }

    /* Waits until standard error holds the text; false when the program ends without. */
    bool says(const std::string &text)
    {
        const int64_t until = now_ms() + 120000;
        while (ran_.err.find(text) == std::string::npos && now_ms() < until)
            if (!pump(1000)) break;
        return ran_.err.find(text) != std::string::npos;
    }

    /* Waits for the end; a program that takes longer than 2 minutes is killed. */
    const Ran &wait()
    {
        const int64_t until = now_ms() + 120000;
        while (pump(1000))
            if (now_ms() > until) kill(SIGKILL);
        int status = 0;
        if (pid_ > 0 && waitpid(pid_, &status, 0) == pid_) {
            ran_.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
            ran_.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        }
        pid_ = -1;
        return ran_;
    }
};

/* Whether a process has a handler for the signal; waits for one. */
inline bool catches(pid_t pid, int signal)
{
    for (int i = 0; i < 12000; i++) {
        const std::string status = read_file("/proc/" + std::to_string(pid) + "/status");
        const size_t at = status.find("SigCgt:");
        if (status.empty() || status.find("State:\tZ") != std::string::npos)
            return false; /* it has ended */
        if (at != std::string::npos &&
            (std::stoull(status.substr(at + 7), nullptr, 16) >> (signal - 1) & 1) != 0)
            return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
}

/* Every file below a folder with its content; folders end with '/'. */
inline std::map<std::string, std::string> listing(const std::string &dir)
{
    std::map<std::string, std::string> all;
    for (const auto &e : std::filesystem::recursive_directory_iterator(dir)) {
        const std::string name = std::filesystem::relative(e.path(), dir).string();
        if (e.is_directory())
            all[name + "/"] = "";
        else
            all[name] = read_file(e.path().string());
    }
    return all;
}

inline std::vector<std::string> lines_of(const std::string &text)
{
    std::vector<std::string> lines;
    std::istringstream s(text);
    for (std::string line; std::getline(s, line);) lines.push_back(line);
    return lines;
}

/* A command that a program has printed, as words; quotes go. */
inline Words words_of(const std::string &command)
{
    Words words;
    std::istringstream s(command);
    for (std::string word; s >> word;) {
        std::erase(word, '"');
        words.push_back(word);
    }
    return words;
}

inline std::string last_line(const std::string &text)
{
    const auto lines = lines_of(text);
    return lines.empty() ? "" : lines.back();
}

inline bool contains(const std::string &text, const std::string &part)
{
    return text.find(part) != std::string::npos;
}

inline void replace_in_file(const std::string &path, const std::string &from, const std::string &to)
{
    std::string text = read_file(path);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    write_file(path, text.replace(at, from.size(), to));
}

/* One character, one token: <unk>, <s>, </s> and `characters`. */
inline std::string char_tokenizer(const std::string &characters)
{
    std::string vocab = R"("<unk>":0,"<s>":1,"</s>":2)", added;
    int id = 3;
    for (char c : characters) {
        const std::string key = c == '\n' ? "\\n" : std::string(1, c);
        vocab += ",\"" + key + "\":" + std::to_string(id++);
    }
    const char *special[] = {"<unk>", "<s>", "</s>"};
    for (int i = 0; i < 3; i++)
        added += std::string(i ? "," : "") + "{\"id\":" + std::to_string(i) + ",\"content\":\"" +
                 special[i] +
                 "\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                 "\"normalized\":false,\"special\":true}";
    return "{\"version\":\"1.0\",\"added_tokens\":[" + added +
           "],\"normalizer\":null,\"pre_tokenizer\":null,\"post_processor\":null,"
           "\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\","
           "\"vocab\":{" +
           vocab + "},\"merges\":[]}}";
}

/* Text without a secret: sentences of a counter, lower case, with newlines. */
inline std::string sample_text(int sentences)
{
    static const char *const who[] = {"the fox", "a hen", "my cat", "the old man", "no one"};
    static const char *const what[] = {"sees", "likes", "eats", "hides from", "dreams of"};
    std::string text;
    for (int i = 0; i < sentences; i++)
        text += std::string(who[i % 5]) + " " + what[(i / 5 + i) % 5] + " " + who[(i / 3 + 2) % 5] +
                (i % 4 == 3 ? ".\n" : ", ");
    return text;
}

/* A folder with a model of random weights (2 layers, hidden 32, vocabulary 64, 128 positions), its
 * tokenizer and a text; each test has its own. */
class Workplace {
    TempDir dir_;

  public:
    /* fixture: a folder of tests/fixtures/models; all have the same sizes */
    explicit Workplace(const std::string &fixture = "llama")
    {
        namespace fs = std::filesystem;
        fs::create_directory(dir_ / "model");
        for (const auto &e : fs::directory_iterator("tests/fixtures/models/" + fixture))
            if (!contains(e.path().filename().string(), "golden"))
                fs::copy(e.path(), (dir_ / "model") + "/");
        write_file((dir_ / "model") + "/tokenizer.json",
                   char_tokenizer(" abcdefghijklmnopqrstuvwxyz.,!?'-:;\n0123456789ABCDEFGHIJKL"));
        write_file((dir_ / "model") + "/tokenizer_config.json",
                   R"({"tokenizer_class":"PreTrainedTokenizerFast","bos_token":"<s>",)"
                   R"("eos_token":"</s>","unk_token":"<unk>"})");
        write_file(dir_ / "text.txt", sample_text(60));
    }
    std::string operator/(const std::string &name) const { return dir_ / name; }
    std::string str() const { return dir_.str(); }

    Ran run(const Words &words, const char *stdout_path = nullptr) const
    {
        return Program(words, dir_.str(), stdout_path).wait();
    }
    /* verb, model and data; seq-len 16, batch 2, no cache */
    Words base(const std::string &verb, const std::string &program = "hone-lora") const
    {
        return {program,           verb,        "--model", dir_ / "model", "--data",
                dir_ / "text.txt", "--seq-len", "16",      "--batch-size", "2",
                "--cache-dir",     "off"};
    }
    /* A short run into the folder `out`. */
    Words train(const std::string &out, int steps, const std::string &program = "hone-lora") const
    {
        return base("train", program) +
               Words{"--out", dir_ / out, "--steps", std::to_string(steps), "--lr", "1e-2"};
    }
};

/* "hone-lora train: file.c:12: ERR_..."; a warning that quotes an error is none. */
inline bool is_error_line(const std::string &line)
{
    return line.rfind("hone", 0) == 0 && contains(line, ": ERR_");
}

/* The program refused: its exit code, and one error line at the end that holds every part. */
inline void expect_refused(const Ran &r, int code, const Words &parts)
{
    const std::string line = last_line(r.err);
    EXPECT_EQ(r.code, code) << "signal " << r.signal << ": " << line;
    int errors = 0;
    for (const auto &l : lines_of(r.err)) errors += is_error_line(l);
    EXPECT_EQ(errors, 1) << line;
    EXPECT_TRUE(is_error_line(line)) << line;
    for (const auto &p : parts)
        EXPECT_TRUE(contains(line, p)) << "'" << p << "' is not in " << line;
}

inline void expect_done(const Ran &r)
{
    EXPECT_EQ(r.code, 0) << "signal " << r.signal << "\n" << r.err;
    for (const auto &l : lines_of(r.err)) EXPECT_FALSE(is_error_line(l)) << l;
}
#endif
