module ztka/judge

go 1.25.0
