# Utf8proc::Utf8proc (Unicode normalisation)
include(${CMAKE_CURRENT_LIST_DIR}/HoneLibrary.cmake)
hone_find_library(
  Utf8proc HEADER utf8proc.h NAMES utf8proc
  VERSION_REGEX "define UTF8PROC_VERSION_MAJOR +([0-9]+)" "define UTF8PROC_VERSION_MINOR +([0-9]+)"
                "define UTF8PROC_VERSION_PATCH +([0-9]+)")
if(Utf8proc_FOUND AND HONE_STATIC)
  set_property(TARGET Utf8proc::Utf8proc PROPERTY INTERFACE_COMPILE_DEFINITIONS UTF8PROC_STATIC)
endif()
