/* engine_test.h - how the tests of the engine run it. */
#ifndef HN_ENGINE_TEST_H
#define HN_ENGINE_TEST_H
#include "hn_test.h"
#include "runtime/graph/run.h"

/* HONE_TEST_EXECUTOR, on a GPU only. */
inline hn_executor test_executor()
{
    const char *env = std::getenv("HONE_TEST_EXECUTOR");
    const std::string name = env ? env : "auto";
    return name == "cuda"         ? HN_EXECUTOR_NODES
           : name == "cuda-graph" ? HN_EXECUTOR_GRAPH
           : name == "cuda-check" ? HN_EXECUTOR_CHECK
                                  : HN_EXECUTOR_AUTO;
}

#endif
