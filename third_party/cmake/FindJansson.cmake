# Jansson::Jansson (JSON)
include(${CMAKE_CURRENT_LIST_DIR}/HoneLibrary.cmake)
hone_find_library(Jansson HEADER jansson.h NAMES jansson
                  VERSION_REGEX "define JANSSON_VERSION +\"([0-9.]+)")
