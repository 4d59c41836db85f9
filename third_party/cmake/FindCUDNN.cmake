# CUDNN::CUDNN, looked for beside the CUDA toolkit too (find_package(CUDAToolkit) comes first)
include(${CMAKE_CURRENT_LIST_DIR}/HoneLibrary.cmake)
hone_find_library(
  CUDNN HEADER cudnn.h NAMES cudnn SHARED_ONLY
  HINTS ${CUDAToolkit_INCLUDE_DIRS} ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT}
  VERSION_FILE cudnn_version.h
  VERSION_REGEX "define CUDNN_MAJOR +([0-9]+)" "define CUDNN_MINOR +([0-9]+)"
                "define CUDNN_PATCHLEVEL +([0-9]+)")
