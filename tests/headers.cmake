# Every header of runtime/ and kernels/ compiles alone, and twice in a row: as C11, as C++20 and,
# with HONE_CUDA, as CUDA C++. Headers called cuda_*.h are for .cu files only.
file(GLOB_RECURSE HONE_HEADERS RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS runtime/*.h
     kernels/*.h)
set(check_c "")
set(check_cxx "")
set(check_cuda "")
foreach(header ${HONE_HEADERS} runtime/base/version.h)
  get_filename_component(file ${header} NAME)
  string(MAKE_C_IDENTIFIER ${header} id)
  set(languages c cc cu)
  if(file MATCHES "^cuda_")
    set(languages cu)
  endif()
  foreach(language ${languages})
    set(source ${PROJECT_BINARY_DIR}/headers/${id}.${language})
    # One symbol of its own: an empty translation unit is an error in pedantic C.
    file(CONFIGURE OUTPUT ${source} CONTENT
         "#include \"${header}\"\n#include \"${header}\"\nextern int alone_${id};\nint alone_${id};\n")
    list(APPEND check_${language} ${source})
  endforeach()
endforeach()

add_library(headers_alone OBJECT ${check_c} ${check_cc})
target_compile_options(headers_alone PRIVATE -Wall -Wextra -Werror
                                             $<$<COMPILE_LANGUAGE:C>:-Wpedantic>)
target_link_libraries(headers_alone PRIVATE libhone)
if(HONE_CUDA)
  add_library(headers_alone_cuda OBJECT ${check_cu})
  list(GET HONE_CUDA_ARCH_FLAGS 0 one_arch) # the front end is what is tested
  target_compile_options(headers_alone_cuda PRIVATE ${one_arch} ${HONE_CUDA_WARNINGS})
  target_link_libraries(headers_alone_cuda PRIVATE libhone)
endif()
