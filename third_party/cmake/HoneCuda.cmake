# The CUDA side of the build: architectures, flags for .cu files, CUDA's own libraries.
#
# Nothing here links libcuda or NVML: entry points of the driver are looked up at run time, so
# the programs also start on a machine without a driver.
set(HONE_CUDA_ARCHS "80;86;89;90a" CACHE STRING "Architectures that get machine code")
set(HONE_CUDA_PTX "90" CACHE STRING "Architecture whose PTX is kept for newer GPUs; empty: none")
option(HONE_CUDART_SHARED "Link the CUDA runtime as a shared library" OFF)

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(HONE_NVCC nvcc HINTS $ENV{CUDA_PATH}/bin $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
  if(NOT HONE_NVCC)
    message(FATAL_ERROR "HONE_CUDA is on and there is no nvcc: install the CUDA toolkit, set "
                        "CUDACXX, or configure without HONE_CUDA")
  endif()
  set(CMAKE_CUDA_COMPILER ${HONE_NVCC})
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF) # -gencode below: CMake 3.22 knows no "90a"
if(HONE_CUDART_SHARED)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
else()
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS HONE_MIN_CUDA)
  message(FATAL_ERROR "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than ${HONE_MIN_CUDA}")
endif()

set(HONE_CUDA_ARCH_FLAGS "")
foreach(arch ${HONE_CUDA_ARCHS})
  if(NOT arch MATCHES "^[0-9]+[af]?$")
    message(FATAL_ERROR "HONE_CUDA_ARCHS: '${arch}' is not an architecture like 80 or 90a")
  endif()
  list(APPEND HONE_CUDA_ARCH_FLAGS "SHELL:-gencode arch=compute_${arch},code=sm_${arch}")
endforeach()
if(HONE_CUDA_PTX)
  list(APPEND HONE_CUDA_ARCH_FLAGS
       "SHELL:-gencode arch=compute_${HONE_CUDA_PTX},code=compute_${HONE_CUDA_PTX}")
endif()
# Any warning is an error, a spilled register is a warning (the test cuda_spills_fail proves it).
set(HONE_CUDA_WARNINGS "SHELL:-Werror all-warnings"
    "SHELL:-Xptxas --warn-on-spills,--warning-as-error"
    "SHELL:-Xcompiler -Wall,-Wextra,-Wno-unused-parameter,-Werror")

find_package(CUDAToolkit ${HONE_MIN_CUDA} REQUIRED)
# cuBLASLt is opened at run time: a program for a GPU starts on a machine that lacks it.
set(HONE_CUDA_LIBRARIES ${CMAKE_DL_LIBS})
if(HONE_CUDART_SHARED)
  list(APPEND HONE_CUDA_LIBRARIES CUDA::cudart)
else()
  list(APPEND HONE_CUDA_LIBRARIES CUDA::cudart_static)
endif()

# cuDNN, too: attention through it needs its headers only.
find_path(HONE_CUDNN_INCLUDE_DIR cudnn_version.h
          HINTS ${CUDNN_ROOT} ENV CUDNN_ROOT ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
mark_as_advanced(HONE_CUDNN_INCLUDE_DIR)
if(HONE_CUDNN_INCLUDE_DIR)
  file(READ ${HONE_CUDNN_INCLUDE_DIR}/cudnn_version.h cudnn_header)
  set(cudnn_version "")
  foreach(part MAJOR MINOR PATCHLEVEL)
    if(cudnn_header MATCHES "define CUDNN_${part} +([0-9]+)")
      string(APPEND cudnn_version ".${CMAKE_MATCH_1}")
    endif()
  endforeach()
  string(REGEX REPLACE "^\\." "" cudnn_version "${cudnn_version}")
endif()
if(NOT HONE_CUDNN_INCLUDE_DIR)
  message(STATUS "cuDNN: no headers, attention through cuDNN is left out")
elseif(cudnn_version VERSION_LESS HONE_MIN_CUDNN)
  message(STATUS "cuDNN: the headers in ${HONE_CUDNN_INCLUDE_DIR} are ${cudnn_version}, older than "
                 "${HONE_MIN_CUDNN}: attention through cuDNN is left out")
  set(HONE_CUDNN_INCLUDE_DIR "")
else()
  message(STATUS "cuDNN: headers ${cudnn_version} in ${HONE_CUDNN_INCLUDE_DIR}")
endif()

# NCCL, too: several GPUs through it need its header only.
find_path(HONE_NCCL_INCLUDE_DIR nccl.h
          HINTS ${NCCL_ROOT} ENV NCCL_ROOT ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
mark_as_advanced(HONE_NCCL_INCLUDE_DIR)
if(HONE_NCCL_INCLUDE_DIR)
  file(READ ${HONE_NCCL_INCLUDE_DIR}/nccl.h nccl_header)
  set(nccl_version "")
  foreach(part MAJOR MINOR PATCH)
    if(nccl_header MATCHES "define NCCL_${part} +([0-9]+)")
      string(APPEND nccl_version ".${CMAKE_MATCH_1}")
    endif()
  endforeach()
  string(REGEX REPLACE "^\\." "" nccl_version "${nccl_version}")
endif()
if(NOT HONE_NCCL_INCLUDE_DIR)
  message(STATUS "NCCL: no header, several GPUs are left out")
elseif(nccl_version VERSION_LESS HONE_MIN_NCCL)
  message(STATUS "NCCL: the header in ${HONE_NCCL_INCLUDE_DIR} is ${nccl_version}, older than "
                 "${HONE_MIN_NCCL}: several GPUs are left out")
  set(HONE_NCCL_INCLUDE_DIR "")
else()
  message(STATUS "NCCL: header ${nccl_version} in ${HONE_NCCL_INCLUDE_DIR}")
endif()
