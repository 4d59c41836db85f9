/* runtime/comm/ranks under real mpirun, and scripts/launch/mpirun.sh; with -DHONE_TEST_MPI=ON.
 *
 * Programs: $HONE_MPIRUN and $HONE_BIN/print_ranks (ctest sets both), else mpirun and build/. */
#include <sys/wait.h>

#include <map>
#include <set>

#include "hn_test.h"
#include "runtime/comm/ranks.h"

namespace {

struct Output {
    int code = -1;
    std::string text;
};

std::string from_env(const char *name, const char *otherwise)
{
    const char *value = std::getenv(name);
    return value ? value : otherwise;
}

std::string program()
{
    return std::filesystem::absolute(from_env("HONE_BIN", "build") + "/print_ranks").string();
}

/* Runs a line of the shell. mpirun may be root's in a container, and have fewer cores than ranks.
 */
Output shell(const std::string &line)
{
    const std::string whole =
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
        "OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe; "
        "exec 2>&1; timeout 120 " +
        line;
    Output o;
    FILE *p = popen(whole.c_str(), "r");
    EXPECT_NE(p, nullptr);
    if (p == nullptr) return o;
    char buffer[4096];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, p)) > 0;) o.text.append(buffer, n);
    const int status = pclose(p);
    o.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return o;
}

std::string mpirun(const std::string &words)
{
    return from_env("HONE_MPIRUN", "mpirun") + " --bind-to none " + words;
}

using Fields = std::map<std::string, std::string>;

/* The lines of print_ranks by rank. */
std::map<int, Fields> ranks_in(const Output &o)
{
    std::map<int, Fields> ranks;
    std::istringstream lines(o.text);
    for (std::string line; std::getline(lines, line);) {
        Fields f;
        if (line.rfind("rank=", 0) != 0) continue;
        std::istringstream words(line);
        for (std::string w; words >> w;) f[w.substr(0, w.find('='))] = w.substr(w.find('=') + 1);
        ranks[std::stoi(f["rank"])] = f;
    }
    return ranks;
}

TEST(RanksMpi, MeetInTheFolderOfTheirJob)
{
    const Output o = shell(mpirun("-n 4 " + program()));
    ASSERT_EQ(o.code, 0) << o.text;
    auto ranks = ranks_in(o);
    ASSERT_EQ(ranks.size(), 4u) << o.text;
    for (auto &[rank, f] : ranks) {
        EXPECT_EQ(f["launcher"], std::to_string(HN_LAUNCHER_OPEN_MPI));
        EXPECT_EQ(f["size"], "4");
        EXPECT_EQ(f["local"], std::to_string(rank) + "/4");
        EXPECT_EQ(f["address"], "");
        EXPECT_EQ(f["file"], ranks[0]["file"]);
        EXPECT_EQ(f["job"], ranks[0]["job"]);
        EXPECT_EQ(f["usable"], "1") << f["file"];
    }
}

TEST(RanksMpi, TwoRunsAreTwoJobs)
{
    std::set<std::string> jobs, files;
    for (int i = 0; i < 2; i++) {
        const Output o = shell(mpirun("-n 2 " + program()));
        auto ranks = ranks_in(o);
        ASSERT_EQ(ranks.size(), 2u) << o.text;
        jobs.insert(ranks[0]["job"]);
        files.insert(ranks[0]["file"]);
    }
    EXPECT_EQ(jobs.size(), 2u);
    EXPECT_EQ(files.size(), 2u);
}

TEST(RanksMpi, OneRankIsAlone)
{
    const Output o = shell(mpirun("-n 1 " + program()));
    auto ranks = ranks_in(o);
    ASSERT_EQ(ranks.size(), 1u) << o.text;
    EXPECT_EQ(ranks[0]["size"] + ranks[0]["file"] + ranks[0]["address"], "1");
}

/* Two daemons, started by a script in the place of ssh: to mpirun they are hosts. Each has a folder
 * for temporary files of its own, as hosts do: in a common one they make the same files, and one of
 * them dies now and then. */
struct RanksMpiHosts : testing::Test {
    TempDir dir;
    std::string agent()
    {
        write_file(dir / "agent", "#!/bin/sh\n"
                                  "while [ \"${1#-}\" != \"$1\" ]; do shift; done\n"
                                  "export TMPDIR=" +
                                      dir.str() +
                                      "/$1\n"
                                      "mkdir -p \"$TMPDIR\"\n"
                                      "shift\nexec sh -c \"$*\"\n");
        std::filesystem::permissions(dir / "agent", std::filesystem::perms::owner_all);
        return "env OMPI_MCA_plm_rsh_agent=" + (dir / "agent") +
               " PRTE_MCA_plm_ssh_agent=" + (dir / "agent") + " ";
    }
};

TEST_F(RanksMpiHosts, NeedAnAddressAndSaySo)
{
    const Output o = shell(agent() + mpirun("-n 4 --host nodea:2,nodeb:2 " + program()));
    EXPECT_EQ(o.code, 2) << o.text;
    EXPECT_NE(o.text.find("Open MPI: nothing says where 4 ranks meet; give --rendezvous"),
              std::string::npos)
        << o.text;
    EXPECT_EQ(ranks_in(o).size(), 0u);
}

/* The script as it is; hone-lora is print_ranks by another name. */
TEST_F(RanksMpiHosts, TheExampleScriptGivesIt)
{
    write_file(dir / "hosts", "# two of them\nnodea slots=2\nnodeb slots=2\n");
    std::filesystem::create_symlink(program(), dir / "hone-lora");
    const std::string script = "env PATH=" + dir.str() + ":$PATH HOSTFILE=" + (dir / "hosts") +
                               " PORT=24701 HONE_RENDEZVOUS_SECRET=s " + agent() +
                               "bash scripts/launch/mpirun.sh 4 --model m";
    const Output o = shell(script);
    ASSERT_EQ(o.code, 0) << o.text;
    auto ranks = ranks_in(o);
    ASSERT_EQ(ranks.size(), 4u) << o.text;
    for (auto &[rank, f] : ranks) {
        EXPECT_EQ(f["local"], std::to_string(rank % 2) + "/2");
        EXPECT_EQ(f["address"], "nodea:24701");
        EXPECT_EQ(f["file"], "");
        EXPECT_EQ(f["job"], ranks[0]["job"]);
    }
}

} // namespace
