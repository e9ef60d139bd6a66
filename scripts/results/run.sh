#!/usr/bin/env bash
# Six models on MovieLens-1M with crosses and on Frappe, full tables against ROBE, three seeds: docs/results.md and its plot.
#   bash scripts/results/run.sh DATA OUT
# DATA holds ml-1m/ml1m_full.parquet and frappe_x1/{train_rebuilt,valid_official,test_official}.parquet. Killed, it goes on.
# About five hours of one core; the two comparisons run at the same time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=$1 out=$2
mkdir -p "$out"
if [ ! -e "$out/data/ml" ]; then
  robe prepare table "$data/ml-1m/ml1m_full.parquet" "$out/data/ml" --label "rating >= 4" \
    -c user,movie,zip,genres,year,occupation,age,gender \
    --derive "zip3 = SUBSTR(zip, 1, 3)" --derive "decade = year // 10" \
    --cross "user*genres,user*decade,movie*age*gender,movie*occupation,movie*zip3,zip*genres,user*year" \
    --split-column fold --test-values 4 --validation 0.05 --ids vocabulary
fi
if [ ! -e "$out/data/frappe" ]; then
  robe prepare table "$data/frappe_x1/train_rebuilt.parquet" "$out/data/frappe" --label label \
    -c user,item,daytime,weekday,isweekend,homework,cost,weather,country,city --ids vocabulary \
    --validation-file "$data/frappe_x1/valid_official.parquet" --test-file "$data/frappe_x1/test_official.parquet"
fi
for name in frappe movielens; do
  set=$([ $name = movielens ] && echo ml || echo frappe)
  robe compare "$out/data/$set" --out "$out/$name" --config "$here/$name.yaml" > "$out/$name.log" 2>&1 &
done
wait -n && wait -n || { cat "$out"/*.log; exit 1; }
python "$here/page.py" "$out" "$here/../../docs"
