# What can be checked of the CUDA build without a GPU: everything compiles and links, headers
# compile as CUDA C++, and the build flags refuse a kernel that spills registers.
# The programs of a CUDA build also start here (test_cli_device_cuda runs them, GPU or not).
add_custom_target(cuda_check DEPENDS libhone headers_alone_cuda ${HONE_PROGRAMS} hone-bench
                                     test_registry test_engine_cuda test_cli_device_cuda
                                     test_bench_result)
set(spill_flags ${HONE_CUDA_ARCH_FLAGS} ${HONE_CUDA_WARNINGS})
list(TRANSFORM spill_flags REPLACE "^SHELL:" "")
list(JOIN spill_flags " " spill_flags)
separate_arguments(spill_flags UNIX_COMMAND "${spill_flags}")
add_test(NAME cuda_spills_fail
         COMMAND ${CMAKE_CUDA_COMPILER} ${spill_flags} -c ${CMAKE_CURRENT_LIST_DIR}/spill.cu -o
                 ${PROJECT_BINARY_DIR}/spill.o)
# With an expression the exit code does not count; ptxas says "error" only when it refuses.
set_tests_properties(cuda_spills_fail PROPERTIES PASS_REGULAR_EXPRESSION
                                                 "ptxas error.*Registers are spilled")
