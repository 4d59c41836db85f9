# Library, headers (below include/hone, with the same paths as here; not the parts' own *_impl.h),
# programs, hone.pc, LICENSE.
install(TARGETS libhone ${HONE_PROGRAMS} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
                                          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY runtime kernels DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/hone
        FILES_MATCHING PATTERN "*_impl.h" EXCLUDE PATTERN "*.h" PATTERN "*.def")
install(FILES ${PROJECT_BINARY_DIR}/generated/runtime/base/version.h
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/hone/runtime/base)
install(FILES runtime/train/hone.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/hone)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# hone is a static library: whoever links it links what it stands on, so nothing is private.
set(HONE_PC_LIBS "")
foreach(package OpenBLAS Jansson PCRE2 Utf8proc LibYAML LibJPEG LibPNG)
  string(APPEND HONE_PC_LIBS " ${${package}_LIBRARY}")
endforeach()
foreach(library ${HONE_LAPACK_LIBRARIES} ${OPENSSL_CRYPTO_LIBRARY} ${ZLIB_LIBRARIES}
                ${OpenMP_C_LIBRARIES})
  string(APPEND HONE_PC_LIBS " ${library}")
endforeach()
if(HONE_CUDA)
  if(HONE_CUDART_SHARED)
    string(APPEND HONE_PC_LIBS " ${CUDA_cudart_LIBRARY}")
  else()
    string(APPEND HONE_PC_LIBS " ${CUDA_cudart_static_LIBRARY} -ldl -lrt")
  endif()
endif()
get_filename_component(openblas_dir ${OpenBLAS_LIBRARY} DIRECTORY)
if(NOT HONE_STATIC AND NOT openblas_dir IN_LIST CMAKE_C_IMPLICIT_LINK_DIRECTORIES)
  string(APPEND HONE_PC_LIBS " -Wl,-rpath,${openblas_dir}")
endif()
set(HONE_PC_DIR ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH HONE_PC_UP /${HONE_PC_DIR} /) # from hone.pc up to the prefix: it may be moved
configure_file(third_party/hone.pc.in hone.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/hone.pc DESTINATION ${HONE_PC_DIR})
