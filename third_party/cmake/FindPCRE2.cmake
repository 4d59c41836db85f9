# PCRE2::PCRE2, the 8-bit library
include(${CMAKE_CURRENT_LIST_DIR}/HoneLibrary.cmake)
hone_find_library(PCRE2 HEADER pcre2.h NAMES pcre2-8
                  VERSION_REGEX "define PCRE2_MAJOR +([0-9]+)" "define PCRE2_MINOR +([0-9]+)")
if(PCRE2_FOUND AND HONE_STATIC)
  set_property(TARGET PCRE2::PCRE2 PROPERTY INTERFACE_COMPILE_DEFINITIONS PCRE2_STATIC)
endif()
