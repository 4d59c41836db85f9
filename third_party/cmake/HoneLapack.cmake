# The LAPACK in OpenBLAS (singular values: runtime/adapt/spectrum.c). A shared OpenBLAS is complete;
# its archive calls a few functions of gcc's Fortran runtime, which are linked statically, too.
# HONE_LAPACK_LIBRARIES: what comes behind OpenBLAS.
include(CheckCSourceCompiles)
set(HONE_LAPACK_LIBRARIES "")

function(hone_check_lapack result)
  set(CMAKE_REQUIRED_LIBRARIES OpenBLAS::OpenBLAS ${ARGN} OpenMP::OpenMP_C Threads::Threads m)
  set(CMAKE_REQUIRED_QUIET ON)
  check_c_source_compiles(
    "void dgesdd_(void); void dgeqrf_(void); void dorgqr_(void);
     int main(void) { dgesdd_(); dgeqrf_(); dorgqr_(); return 0; }" ${result})
endfunction()

hone_check_lapack(HONE_LAPACK_ALONE)
if(NOT HONE_LAPACK_ALONE)
  foreach(name gfortran quadmath)
    execute_process(COMMAND ${CMAKE_C_COMPILER} -print-file-name=lib${name}.a
                    OUTPUT_VARIABLE hone_archive OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(IS_ABSOLUTE "${hone_archive}" AND EXISTS "${hone_archive}")
      list(APPEND HONE_LAPACK_LIBRARIES ${hone_archive})
    endif()
  endforeach()
  hone_check_lapack(HONE_LAPACK_WITH_FORTRAN ${HONE_LAPACK_LIBRARIES})
  if(NOT HONE_LAPACK_WITH_FORTRAN)
    unset(HONE_LAPACK_ALONE CACHE) # to be tried again
    unset(HONE_LAPACK_WITH_FORTRAN CACHE)
    message(FATAL_ERROR "${OpenBLAS_LIBRARY}: programs with its LAPACK do not link. Either it was "
                        "built without one, or gcc's Fortran runtime is missing "
                        "(libgfortran.a; Debian: libgfortran-12-dev); CMakeFiles/CMakeError.log "
                        "in the build folder has the linker's text")
  endif()
endif()
