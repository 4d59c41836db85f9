# OpenBLAS::OpenBLAS, the OpenMP flavour where the system has it: the kernels call it between
# their own OpenMP loops, and two thread pools would fight for the cores.
include(${CMAKE_CURRENT_LIST_DIR}/HoneLibrary.cmake)
hone_find_library(
  OpenBLAS
  HEADER cblas.h
  NAMES openblaso openblas
  SUFFIXES openblas-openmp
  VERSION_FILE openblas_config.h
  VERSION_REGEX "OPENBLAS_VERSION \" OpenBLAS ([0-9.]+)")
if(OpenBLAS_FOUND AND NOT OpenBLAS_LIBRARY MATCHES "openmp|openblaso")
  message(WARNING "${OpenBLAS_LIBRARY} may not be the OpenMP flavour of OpenBLAS: slower, "
                  "and its threads come on top of ours (Debian: libopenblas-openmp-dev)")
endif()
