/* runtime/comm/ranks: which rank a process is, from a table of environments. */
#include <map>

#include "hn_test.h"
#include "runtime/comm/ranks.h"

namespace {

using Env = std::map<std::string, std::string>;

const char *look_up(void *context, const char *name)
{
    const Env &env = *static_cast<const Env *>(context);
    const auto found = env.find(name);
    return found == env.end() ? nullptr : found->second.c_str();
}

/* "A=1 B=two" */
Env env_of(const std::string &text)
{
    Env env;
    std::istringstream words(text);
    for (std::string word; words >> word;)
        env[word.substr(0, word.find('='))] = word.substr(word.find('=') + 1);
    return env;
}

hn_status find(Env env, hn_ranks *out, const hn_ranks_request *flags = nullptr)
{
    return hn_ranks_find(flags, look_up, &env, out);
}

/* Everything that a row of the tables below speaks of. */
std::string said(const hn_ranks &r)
{
    std::ostringstream s;
    s << hn_launcher_name(r.launcher) << " " << r.rank << "/" << r.size << " " << r.local_rank
      << "/" << r.local_size << (r.local ? " here " : " ") << r.address
      << (r.file[0] ? "file " : "") << r.file << " " << r.job;
    if (r.host[0]) s << " on " << r.host;
    if (r.restarts) s << " restarts " << r.restarts;
    if (r.listen_fd) s << " fd " << r.listen_fd;
    if (r.secret[0]) s << " secret " << r.secret;
    return s.str();
}

const char *const kAlone = "single process 0/1 0/1 here  ";

const std::string kTorch = "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 GROUP_RANK=1 "
                           "ROLE_RANK=5 ROLE_WORLD_SIZE=8 MASTER_ADDR=gnode7 MASTER_PORT=29500 "
                           "TORCHELASTIC_RUN_ID=none TORCHELASTIC_MAX_RESTARTS=3 ";
const std::string kJob = "SLURM_JOB_ID=61234 SLURM_JOB_NODELIST=gnode[07-09] SLURM_NTASKS=6 "
                         "SLURM_TASKS_PER_NODE=2(x3) SLURM_JOB_NUM_NODES=3 SLURM_NODEID=1 "
                         "SLURM_PROCID=3 SLURM_LOCALID=1 SLURMD_NODENAME=gnode08 ";
const std::string kStep = kJob +
                          "SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=6 SLURM_STEP_NUM_NODES=3 "
                          "SLURM_STEP_NODELIST=gnode[07-09] SLURM_STEP_TASKS_PER_NODE=2(x3) ";
const std::string kOpenMpi =
    "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 "
    "OMPI_COMM_WORLD_LOCAL_SIZE=4 PMIX_NAMESPACE=303955969 "
    "PMIX_SERVER_TMPDIR=/tmp/ompi.vm.0/pid.3 ";
const std::string kPmi = "PMI_RANK=2 PMI_SIZE=4 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=2 ";

struct Row {
    const char *what;
    std::string env, expected;
};

const Row kFound[] = {
    {"nothing at all", "", kAlone},
    {"empty variables are not set", "RANK= WORLD_SIZE= SLURM_STEP_ID= PMI_RANK=", kAlone},
    {"NCCL's and CUDA's are nobody's ranks", "NCCL_DEBUG=INFO CUDA_VISIBLE_DEVICES=3", kAlone},
    {"MASTER_ADDR alone is a habit of scripts", "MASTER_ADDR=a MASTER_PORT=1", kAlone},

    {"our launcher, rank 0",
     "HONE_RANK=0 HONE_RANKS=2 HONE_LOCAL_RANK=0 HONE_LOCAL_RANKS=2 HONE_LISTEN_FD=7 HONE_JOB=j1 "
     "HONE_RENDEZVOUS=tcp:127.0.0.1:4000 HONE_RENDEZVOUS_SECRET=ab12",
     "flags 0/2 0/2 here 127.0.0.1:4000 j1 fd 7 secret ab12"},
    {"our launcher inside torchrun",
     kTorch + "HONE_RANK=1 HONE_RANKS=2 HONE_LOCAL_RANK=1 HONE_LOCAL_RANKS=2 HONE_JOB=j1 "
              "HONE_RENDEZVOUS=tcp:[::1]:4000",
     "flags 1/2 1/2 here [::1]:4000 j1"},
    {"by hand, two hosts",
     "HONE_RANK=1 HONE_RANKS=2 HONE_LOCAL_RANK=0 HONE_RENDEZVOUS=tcp:gnode7:4000",
     "flags 1/2 0/0 gnode7:4000 flags-tcp:gnode7:4000"},
    {"by hand, IPv6",
     "HONE_RANK=1 HONE_RANKS=2 HONE_LOCAL_RANK=0 HONE_RENDEZVOUS=tcp:[fe80::1%eth0]:4000",
     "flags 1/2 0/0 [fe80::1%eth0]:4000 flags-tcp:[fe80::1%eth0]:4000"},
    {"by hand, a file", "HONE_RANK=1 HONE_RANKS=2 HONE_LOCAL_RANK=1 HONE_RENDEZVOUS=file:/share/x",
     "flags 1/2 1/0 file /share/x flags-file:/share/x"},
    {"by hand, one rank", "HONE_RANK=0 HONE_RANKS=1", "flags 0/1 0/1 here  "},

    {"torchrun, its agent listens", kTorch + "TORCHELASTIC_USE_AGENT_STORE=True",
     "torchrun 5/8 1/4 gnode7:29501 torchrun-none@gnode7:29500-r0"},
    {"torchrun, its agent does not", kTorch + "TORCHELASTIC_USE_AGENT_STORE=False",
     "torchrun 5/8 1/4 gnode7:29500 torchrun-none@gnode7:29500-r0"},
    {"torchrun, started again", kTorch + "TORCHELASTIC_RESTART_COUNT=2",
     "torchrun 5/8 1/4 gnode7:29500 torchrun-none@gnode7:29500-r2 restarts 2"},
    {"torchrun, one host needs no name",
     kTorch + "LOCAL_RANK=5 LOCAL_WORLD_SIZE=8 TORCHELASTIC_USE_AGENT_STORE=True",
     "torchrun 5/8 5/8 here 127.0.0.1:29501 torchrun-none@gnode7:29500-r0"},
    {"torchrun, IPv6 master", kTorch + "MASTER_ADDR=fd00::2",
     "torchrun 5/8 1/4 [fd00::2]:29500 torchrun-none@fd00::2:29500-r0"},
    {"torchrun, the user names the place", kTorch + "HONE_RENDEZVOUS=tcp:ib7:1234",
     "torchrun 5/8 1/4 ib7:1234 torchrun-none@gnode7:29500-r0"},
    {"torchrun, one process", "RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1",
     "torchrun 0/1 0/1 here  "},
    {"torchrun inside a step of SLURM", kStep + kTorch,
     "torchrun 5/8 1/4 gnode7:29500 torchrun-none@gnode7:29500-r0"},
    {"a pod for each rank", "RANK=1 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=pod-0 MASTER_PORT=23456",
     "torchrun 1/2 0/0 pod-0:23456 torchrun-@pod-0:23456-r0"},

    {"SLURM, a step of srun", kStep, "SLURM 3/6 1/2 gnode07:21234 slurm-61234.0-r0 on gnode08"},
    {"SLURM, the second step of a job", kStep + "SLURM_STEP_ID=1",
     "SLURM 3/6 1/2 gnode07:29153 slurm-61234.1-r0 on gnode08"},
    {"SLURM, requeued", kStep + "SLURM_RESTART_COUNT=1",
     "SLURM 3/6 1/2 gnode07:21234 slurm-61234.0-r1 on gnode08 restarts 1"},
    {"SLURM, older spellings",
     "SLURM_JOBID=61234 SLURM_NODELIST=gnode[07-09] SLURM_NPROCS=6 SLURM_STEPID=0 SLURM_PROCID=3 "
     "SLURM_LOCALID=1",
     "SLURM 3/6 1/0 gnode07:21234 slurm-61234.0-r0"},
    {"SLURM, uneven hosts",
     kStep + "SLURM_STEP_TASKS_PER_NODE=1(x2),4 SLURM_NODEID=2 SLURM_PROCID=5 SLURM_LOCALID=3",
     "SLURM 5/6 3/4 gnode07:21234 slurm-61234.0-r0 on gnode08"},
    {"SLURM, one host",
     kStep + "SLURM_STEP_NODELIST=gnode08 SLURM_STEP_NUM_NODES=1 SLURM_STEP_TASKS_PER_NODE=6 "
             "SLURM_NODEID=0 SLURM_LOCALID=3",
     "SLURM 3/6 3/6 here 127.0.0.1:21234 slurm-61234.0-r0 on gnode08"},
    {"SLURM, scripts that set WORLD_SIZE", kStep + "WORLD_SIZE=6 MASTER_ADDR=gnode07 MASTER_PORT=1",
     "SLURM 3/6 1/2 gnode07:21234 slurm-61234.0-r0 on gnode08"},
    {"a shell of salloc", "SLURM_JOB_ID=61234 SLURM_NTASKS=6 SLURM_JOB_NODELIST=gnode[07-09]",
     kAlone},
    {"a script of sbatch", kJob, kAlone},
    {"a script of sbatch that has a step's number", kJob + "SLURM_STEP_ID=4294967291", kAlone},
    {"an interactive step", kJob + "SLURM_STEP_ID=4294967290 SLURM_STEP_NUM_TASKS=6", kAlone},
    {"srun with one task", kJob + "SLURM_STEP_ID=2 SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0", kAlone},
    {"srun --mpi=pmi2 with one task",
     kJob + "SLURM_STEP_ID=2 SLURM_STEP_NUM_TASKS=1 PMI_RANK=0 PMI_SIZE=1", kAlone},
    {"srun --mpi=pmi2", kStep + "PMI_RANK=3 PMI_SIZE=6 PMI_JOBID=61234.0",
     "SLURM 3/6 1/2 gnode07:21234 slurm-61234.0-r0 on gnode08"},

    {"Open MPI, one host", kOpenMpi,
     "Open MPI 1/4 1/4 here file /tmp/ompi.vm.0/pid.3/hone-303955969 openmpi-303955969"},
    {"Open MPI, two hosts and a place",
     kOpenMpi + "OMPI_COMM_WORLD_LOCAL_SIZE=2 HONE_RENDEZVOUS=tcp:gnode7:4000",
     "Open MPI 1/4 1/2 gnode7:4000 openmpi-303955969"},
    {"Open MPI, its daemons are a step of SLURM", kStep + kOpenMpi,
     "Open MPI 1/4 1/4 here file /tmp/ompi.vm.0/pid.3/hone-303955969 "
     "openmpi-303955969"},
    {"mpirun -n 1", "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1", "Open MPI 0/1 0/1 here  "},

    {"Hydra", kPmi + "HONE_RENDEZVOUS=file:/share/job", "PMI 2/4 0/2 file /share/job pmi-"},
    {"Hydra, its proxies are a step of SLURM",
     kStep + kPmi + "PMI_JOBID=k1 HONE_RENDEZVOUS=tcp:a:1", "PMI 2/4 0/2 a:1 pmi-k1"},
};

TEST(Ranks, AreFoundInEnvironments)
{
    for (const Row &row : kFound) {
        hn_ranks r = {};
        EXPECT_HN_OK(find(env_of(row.env), &r)) << row.what;
        EXPECT_EQ(said(r), row.expected) << row.what;
    }
}

const Row kRefused[] = {
    {"no size", "RANK=1", "RANK=1 is set, but not WORLD_SIZE"},
    {"no rank", "WORLD_SIZE=2", "WORLD_SIZE=2 is set, but not RANK"},
    {"a stray LOCAL_RANK", "LOCAL_RANK=0", "LOCAL_RANK=0 is set, but not RANK"},
    {"rank beyond size", kTorch + "RANK=8", "RANK=8, but WORLD_SIZE=8"},
    {"negative rank", kTorch + "RANK=-1", "RANK=-1: a whole number from 0"},
    {"a sign", kTorch + "RANK=+1", "RANK=+1: a whole number"},
    {"hexadecimal", kTorch + "RANK=0x1", "RANK=0x1: a whole number"},
    {"words", kTorch + "WORLD_SIZE=eight", "WORLD_SIZE=eight: a whole number from 1 to 4096"},
    {"something behind it", kTorch + "WORLD_SIZE=8;", "WORLD_SIZE=8;: a whole number"},
    {"no ranks", kTorch + "WORLD_SIZE=0", "WORLD_SIZE=0: a whole number from 1"},
    {"too many ranks", kTorch + "WORLD_SIZE=4097",
     "WORLD_SIZE=4097: a whole number from 1 to 4096"},
    {"overflow", kTorch + "WORLD_SIZE=18446744073709551624", "WORLD_SIZE=18446744073709551624: a"},
    {"local rank missing", "RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=2",
     "WORLD_SIZE=2, but not LOCAL_RANK"},
    {"local rank beyond its host", kTorch + "LOCAL_RANK=4", "LOCAL_RANK=4, but LOCAL_WORLD_SIZE=4"},
    {"local rank beyond all", "RANK=1 WORLD_SIZE=2 LOCAL_RANK=2 MASTER_ADDR=a MASTER_PORT=2",
     "LOCAL_RANK=2, but WORLD_SIZE=2"},
    {"more here than anywhere", kTorch + "LOCAL_WORLD_SIZE=9",
     "LOCAL_WORLD_SIZE=9, but WORLD_SIZE=8"},
    {"no master", "RANK=1 WORLD_SIZE=2 LOCAL_RANK=0", "but not MASTER_ADDR"},
    {"no port", "RANK=1 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=a", "but not MASTER_PORT"},
    {"no such port", kTorch + "MASTER_PORT=65536",
     "MASTER_PORT=65536: a whole number from 1 to 65535"},
    {"no port above the agent's", kTorch + "MASTER_PORT=65535 TORCHELASTIC_USE_AGENT_STORE=True",
     "MASTER_PORT=65535: a whole number from 1 to 65534"},
    {"no host", kTorch + "MASTER_ADDR=a;b", "MASTER_ADDR=a;b: no name or address"},
    {"a restart count that is none", kTorch + "TORCHELASTIC_RESTART_COUNT=x",
     "TORCHELASTIC_RESTART_COUNT=x"},
    {"half of our own", "HONE_RANK=1", "HONE_RANK=1 is set, but not --job-size (HONE_RANKS)"},
    {"the other half", "HONE_RANKS=2", "HONE_RANKS=2 is set, but not --job-rank (HONE_RANK)"},
    {"a crumb of our own", "HONE_LOCAL_RANK=1", "HONE_LOCAL_RANK=1 is set, but not HONE_RANK"},
    {"a socket without ranks", "HONE_LISTEN_FD=4", "HONE_LISTEN_FD=4 is set, but not HONE_RANK"},
    {"a socket of another rank",
     "HONE_RANK=1 HONE_RANKS=2 HONE_LOCAL_RANK=1 HONE_LISTEN_FD=4 HONE_RENDEZVOUS=tcp:a:1",
     "HONE_LISTEN_FD=4 in rank 1"},
    {"a socket that is standard output",
     "HONE_RANK=0 HONE_RANKS=2 HONE_LOCAL_RANK=0 HONE_LISTEN_FD=1 HONE_RENDEZVOUS=tcp:a:1",
     "HONE_LISTEN_FD=1: a whole number from 3"},
    {"nowhere to meet", "HONE_RANK=0 HONE_RANKS=2 HONE_LOCAL_RANK=0",
     "flags: nothing says where 2 ranks meet"},
    {"rendezvous without kind", kTorch + "HONE_RENDEZVOUS=gnode7:1",
     "HONE_RENDEZVOUS=gnode7:1: tcp:"},
    {"rendezvous without port", kTorch + "HONE_RENDEZVOUS=tcp:gnode7", "tcp:gnode7: tcp:HOST:PORT"},
    {"rendezvous without host", kTorch + "HONE_RENDEZVOUS=tcp::1", "tcp::1: tcp:HOST:PORT"},
    {"rendezvous on port 0", kTorch + "HONE_RENDEZVOUS=tcp:a:0", "tcp:a:0: tcp:HOST:PORT"},
    {"IPv6 without brackets", kTorch + "HONE_RENDEZVOUS=tcp:fe80::1:80",
     "tcp:HOST:PORT, tcp:[IPV6]"},
    {"brackets around a name", kTorch + "HONE_RENDEZVOUS=tcp:[gnode7]:80", "tcp:[IPV6]:PORT"},
    {"a file without path", kTorch + "HONE_RENDEZVOUS=file:", "file:: tcp:HOST:PORT"},
    {"a path beyond limits", kTorch + "HONE_RENDEZVOUS=file:/" + std::string(1024, 'x'),
     "HONE_RENDEZVOUS: 1025 bytes, there may be 1023"},
    {"an overlong identity", kTorch + "HONE_JOB=" + std::string(300, 'x'), "HONE_JOB: 300 bytes"},
    {"an overlong host", kTorch + "MASTER_ADDR=" + std::string(300, 'x'), "no name or address"},
    {"a step without rank",
     "SLURM_JOB_ID=5 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_NODELIST=a",
     "SLURM_STEP_NUM_TASKS=2 is set, but not SLURM_PROCID"},
    {"a step without hosts", "SLURM_JOB_ID=5 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0",
     "but not SLURM_STEP_NODELIST"},
    {"a step without job", "SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0 SLURM_NODELIST=a",
     "but not SLURM_JOB_ID"},
    {"a step that is no number", kStep + "SLURM_STEP_ID=batch",
     "SLURM_STEP_ID=batch: a whole number"},
    {"a rank beyond the step", kStep + "SLURM_PROCID=6",
     "SLURM_PROCID=6, but SLURM_STEP_NUM_TASKS=6"},
    {"no local rank", kStep + "SLURM_LOCALID=", "but not SLURM_LOCALID"},
    {"a local rank beyond the host", kStep + "SLURM_LOCALID=2",
     "SLURM_LOCALID=2, but tasks of this host=2"},
    {"a damaged list", kStep + "SLURM_STEP_NODELIST=gnode[07-09",
     "SLURM_STEP_NODELIST: list 'gnode[07-09', at byte 11: ',' or ']'"},
    {"a list of other hosts", kStep + "SLURM_STEP_NODELIST=gnode[07-08]",
     "SLURM_STEP_NUM_NODES=3, but SLURM_STEP_NODELIST=gnode[07-08] has 2"},
    {"a damaged list of tasks", kStep + "SLURM_STEP_TASKS_PER_NODE=2(x3",
     "SLURM_STEP_TASKS_PER_NODE: list '2(x3', at byte 4"},
    {"tasks of other hosts", kStep + "SLURM_STEP_TASKS_PER_NODE=3(x2)",
     "6 tasks on 2 hosts, the step has 6 on 3"},
    {"tasks that do not add up", kStep + "SLURM_STEP_TASKS_PER_NODE=2(x2),3",
     "7 tasks on 3 hosts, the step has 6 on 3"},
    {"a host beyond the step", kStep + "SLURM_NODEID=3",
     "SLURM_NODEID=3: a whole number from 0 to 2"},
    {"another size beside SLURM's", kStep + "WORLD_SIZE=8",
     "WORLD_SIZE=8 without RANK, but SLURM has 6"},
    {"half of Open MPI", "OMPI_COMM_WORLD_RANK=1", "is set, but not OMPI_COMM_WORLD_SIZE"},
    {"the other half of it", "OMPI_COMM_WORLD_SIZE=2", "is set, but not OMPI_COMM_WORLD_RANK"},
    {"Open MPI on several hosts", kOpenMpi + "OMPI_COMM_WORLD_LOCAL_SIZE=2",
     "Open MPI: nothing says where 4 ranks meet; give --rendezvous"},
    {"Open MPI without a folder", kOpenMpi + "PMIX_SERVER_TMPDIR=", "Open MPI: nothing says where"},
    {"a namespace that leads elsewhere", kOpenMpi + "PMIX_NAMESPACE=../../etc", "make no path"},
    {"half of PMI", "PMI_SIZE=2", "PMI_SIZE=2 is set, but not PMI_RANK"},
    {"PMI without an address", kPmi, "PMI: nothing says where 4 ranks meet"},
    {"PMI without a local rank", "PMI_RANK=2 PMI_SIZE=4", "but not MPI_LOCALRANKID"},
};

TEST(Ranks, RefuseWhatIsHalfSetOrWrong)
{
    for (const Row &row : kRefused) {
        hn_ranks r = {};
        r.rank = -7;
        EXPECT_EQ(find(env_of(row.env), &r), HN_ERR_ARG) << row.what;
        EXPECT_NE(std::strstr(hn_last_error(), row.expected.c_str()), nullptr)
            << row.what << ": '" << row.expected << "' is not in: " << hn_last_error();
        EXPECT_EQ(r.rank, -7) << row.what;
    }
}

TEST(Ranks, NeverSayTheSecret)
{
    hn_ranks r = {};
    Env env = env_of(kTorch);
    env["HONE_RENDEZVOUS_SECRET"] = std::string(256, 's');
    EXPECT_HN_FAIL(find(env, &r), HN_ERR_ARG, "HONE_RENDEZVOUS_SECRET: 256 bytes");
    EXPECT_EQ(std::strstr(hn_last_error(), "sss"), nullptr);
    env["HONE_RENDEZVOUS_SECRET"] = std::string(255, 's');
    EXPECT_HN_OK(find(env, &r));
}

TEST(Ranks, FlagsComeFirst)
{
    hn_ranks r = {};
    hn_ranks_request flags = {};
    flags.rank = "1", flags.size = "3", flags.local_rank = "0", flags.rendezvous = "tcp:a:1";
    ASSERT_HN_OK(find(env_of(kStep + kTorch + "HONE_RANK=0 HONE_RENDEZVOUS=tcp:b:2"), &r, &flags));
    EXPECT_EQ(said(r), "flags 1/3 0/0 a:1 flags-tcp:a:1");
    flags.rank = flags.local_rank = "";
    ASSERT_HN_OK(find(env_of("HONE_RANK=2 HONE_LOCAL_RANK=1"), &r, &flags));
    EXPECT_EQ(said(r), "flags 2/3 1/0 a:1 flags-tcp:a:1");
    flags.rank = "3";
    EXPECT_HN_FAIL(find(env_of("HONE_LOCAL_RANK=1"), &r, &flags), HN_ERR_ARG,
                   "--job-rank=3, but --job-size=3");
    flags.rank = "1", flags.size = nullptr;
    EXPECT_HN_FAIL(find({}, &r, &flags), HN_ERR_ARG,
                   "--job-rank=1 is set, but not --job-size (HONE_RANKS)");
}

TEST(Ranks, TheFlagOfThePlaceServesEveryLauncher)
{
    hn_ranks r = {};
    hn_ranks_request flags = {};
    flags.rendezvous = "tcp:127.0.0.1:99";
    flags.local_rank = "3"; /* nobody's but torchrun's: not read without --job-rank */
    ASSERT_HN_OK(find(env_of(kOpenMpi), &r, &flags));
    EXPECT_EQ(said(r), "Open MPI 1/4 1/4 here 127.0.0.1:99 openmpi-303955969");
    flags.rendezvous = "tcp:gnode7:99"; /* an address that others reach: not on the loopback */
    ASSERT_HN_OK(find(env_of(kOpenMpi), &r, &flags));
    EXPECT_EQ(said(r), "Open MPI 1/4 1/4 gnode7:99 openmpi-303955969");
    ASSERT_HN_OK(find({}, &r, &flags));
    EXPECT_EQ(said(r), kAlone);
}

TEST(Ranks, ReadTheRealEnvironmentWithoutALookup)
{
    const Env env = env_of("HONE_RANK=1 HONE_RANKS=2 HONE_LOCAL_RANK=1 HONE_RENDEZVOUS=tcp:a:1");
    for (const auto &[name, value] : env) setenv(name.c_str(), value.c_str(), 1);
    hn_ranks r = {};
    EXPECT_HN_OK(hn_ranks_find(nullptr, nullptr, nullptr, &r));
    EXPECT_EQ(r.rank, 1);
    for (const auto &[name, value] : env) unsetenv(name.c_str());
}

/* Damaged environments are refused or give numbers that fit together. */
TEST(Ranks, HoldTogetherWhateverTheVariablesAre)
{
    std::mt19937 random(5);
    std::vector<Env> seeds;
    for (const Row &row : kFound) seeds.push_back(env_of(row.env));
    for (const Row &row : kRefused) seeds.push_back(env_of(row.env));
    const std::vector<std::string> values = {"",
                                             "0",
                                             "1",
                                             "2",
                                             "7",
                                             "-1",
                                             "4096",
                                             "99999999999999999999",
                                             "True",
                                             "a[1-3]",
                                             "a[1-",
                                             "2(x3)",
                                             "tcp:[::1]:1",
                                             "tcp:[",
                                             "tcp:]:1",
                                             "file:x",
                                             std::string(5000, 'y'),
                                             "%s%n",
                                             "\x01\xff"};
    int good = 0;
    for (int i = 0; i < 20000; i++) {
        Env env = seeds[random() % seeds.size()];
        const Env &other = seeds[random() % seeds.size()];
        for (const auto &[name, value] : other)
            if (random() % 4 == 0) env[name] = value;
        for (auto &[name, value] : env)
            if (random() % 8 == 0) value = values[random() % values.size()];
        hn_ranks r = {};
        if (find(env, &r) != HN_OK) continue;
        good++;
        ASSERT_TRUE(r.size >= 1 && r.size <= HN_RANKS_MAX && r.rank >= 0 && r.rank < r.size);
        ASSERT_TRUE(r.local_rank >= 0 && r.local_rank < (r.local_size ? r.local_size : r.size));
        ASSERT_EQ((r.address[0] != 0) + (r.file[0] != 0), r.size > 1) << said(r);
        ASSERT_TRUE(r.listen_fd == 0 || r.rank == 0);
        char text[HN_RANKS_TEXT];
        hn_ranks_text(&r, text);
    }
    EXPECT_GT(good, 1000);
}

TEST(RanksDevice, IsTheLocalRankUnlessOneIsVisible)
{
    hn_ranks r = {};
    ASSERT_HN_OK(find(env_of(kTorch), &r)); /* 1 of 4 on its host */
    int device = -1;
    ASSERT_HN_OK(hn_ranks_device(&r, 4, &device));
    EXPECT_EQ(device, 1);
    ASSERT_HN_OK(hn_ranks_device(&r, 8, &device));
    EXPECT_EQ(device, 1);
    ASSERT_HN_OK(hn_ranks_device(&r, 1, &device)); /* each task sees its own */
    EXPECT_EQ(device, 0);
    r.local_rank = 3;
    device = -1;
    EXPECT_HN_FAIL(hn_ranks_device(&r, 2, &device), HN_ERR_ARG,
                   "rank 5 of 8 is number 3 on its host (from 0), where only 2 devices");
    EXPECT_EQ(device, -1);
}

TEST(RanksText, IsOneLine)
{
    const struct {
        std::string env, text;
    } rows[] = {
        {"", "rank 0 of 1, single process"},
        {kStep, "rank 3 of 6 (1 of 2 on this host), SLURM, address gnode07:21234"},
        {kOpenMpi, "rank 1 of 4 (1 of 4 on this host), Open MPI, file "
                   "/tmp/ompi.vm.0/pid.3/hone-303955969"},
        {"RANK=1 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=pod-0 MASTER_PORT=23456",
         "rank 1 of 2 (0 on this host), torchrun, address pod-0:23456"},
    };
    for (const auto &row : rows) {
        hn_ranks r = {};
        char text[HN_RANKS_TEXT];
        ASSERT_HN_OK(find(env_of(row.env), &r));
        hn_ranks_text(&r, text);
        EXPECT_EQ(text, row.text);
    }
}

std::vector<std::string> dropped(std::vector<std::string> words)
{
    std::vector<char *> argv;
    for (auto &w : words) argv.push_back(w.data());
    int argc = (int)argv.size();
    argv.push_back(nullptr);
    hn_ranks_drop_local(&argc, argv.data());
    EXPECT_EQ(argv[(size_t)argc], nullptr);
    return {argv.begin(), argv.begin() + argc};
}

TEST(RanksDropLocal, TakesOutWhatLaunchersOfPytorchPutIn)
{
    using Words = std::vector<std::string>;
    EXPECT_EQ(dropped({"p", "--local-rank=3", "train", "--lr", "1"}),
              Words({"p", "train", "--lr", "1"}));
    EXPECT_EQ(dropped({"p", "train", "--local_rank=0"}), Words({"p", "train"}));
    EXPECT_EQ(dropped({"p"}), Words({"p"}));
    const Words kept[] = {{"p", "--local-rank", "3"},
                          {"p", "--local-rank="},
                          {"p", "--local-rank=x"},
                          {"p", "--local-ranks=2"},
                          {"p", "train", "--job-rank", "3", "--local-rank=1"},
                          {"p", "train", "--local-rank=1", "--job-rank=3"}};
    for (const Words &words : kept) EXPECT_EQ(dropped(words), words);
}

} // namespace
