# NCCL::NCCL, looked for beside the CUDA toolkit too (find_package(CUDAToolkit) comes first)
include(${CMAKE_CURRENT_LIST_DIR}/HoneLibrary.cmake)
hone_find_library(
  NCCL HEADER nccl.h NAMES nccl SHARED_ONLY
  HINTS ${CUDAToolkit_INCLUDE_DIRS} ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT}
  VERSION_REGEX "define NCCL_MAJOR +([0-9]+)" "define NCCL_MINOR +([0-9]+)"
                "define NCCL_PATCH +([0-9]+)")
